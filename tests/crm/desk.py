"""The CRM's own web server: it takes webhooks (docs/webhooks.md) and shows the page of a deal."""

from __future__ import annotations

import base64
import hashlib
import hmac
import html
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.crm.crm import Crm

_TOLERANCE_S = 300


class Desk:
    """On 127.0.0.1:`port`. `secret` is the endpoint's, once there is one; `out_of_order` answers 500 to webhooks."""

    def __init__(self, crm: Crm) -> None:
        self.crm, self.secret, self.out_of_order = crm, "", False
        self.refused, self.forged = 0, 0
        desk = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                self._answer(desk.receive(dict(self.headers.items()), body), b"", "text/plain")

            def do_GET(self) -> None:
                deal = self.path.rpartition("/")[2]
                self._answer(200, desk.page(deal).encode(), "text/html; charset=utf-8")

            def _answer(self, status: int, body: bytes, kind: str) -> None:
                self.send_response(status)
                if status != 204:
                    self.send_header("content-type", kind)
                    self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """The gateway was killed in the middle of a request: it comes again."""
                if not isinstance(sys.exception(), ConnectionError):
                    raise

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="crm desk")
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(30)

    def receive(self, headers: dict[str, str], body: bytes) -> int:
        """The status to answer. The event is kept before that, once, whatever is sent twice."""
        headers = {name.lower(): value for name, value in headers.items()}
        if not self._genuine(headers, body):
            self.forged += 1
            return 401
        if self.out_of_order:
            self.refused += 1
            return 500
        event = json.loads(body)
        with self.crm.database() as db:
            row = (headers["webhook-id"], event["id"], event["type"], event.get("mailbox_id"))
            db.execute("INSERT OR IGNORE INTO hooks (webhook_id, id, type, mailbox_id) VALUES (?, ?, ?, ?)", row)
        return 204

    def _genuine(self, headers: dict[str, str], body: bytes) -> bool:
        key = base64.b64decode(self.secret.removeprefix("whsec_"))
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        wanted = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        near = abs(self.crm.now().timestamp() - float(headers["webhook-timestamp"])) <= _TOLERANCE_S
        found = [part.partition(",")[2] for part in headers["webhook-signature"].split()]
        return near and any(hmac.compare_digest(wanted, signature) for signature in found)

    def page(self, deal: str) -> str:
        """The page of a deal with its mail."""
        shown = self.crm.deal_page(deal)
        parts = [f"<h1>{html.escape(shown['title'])}</h1>"]
        for thread in shown["threads"]:
            parts.append("<section>")
            for message in thread:
                sender = ", ".join(person["name"] or person["address"] for person in message["from"])
                parts.append(
                    f"<article><h2>{html.escape(message['subject'])}</h2><p>{html.escape(sender)}</p>"
                    f"<pre>{html.escape(message['text'] or '')}</pre></article>"
                )
            parts.append("</section>")
        return "\n".join(parts)
