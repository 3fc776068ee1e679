"""Clients: what docs/client.md tells to type, and a client that openapi-python-client makes from the document, with a
real gateway on Dovecot and Postfix. The code that it makes is type-checked together with what uses it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tests.crm.test_week import ANN, BOB
from tests.crm.world import ADMIN, World, running
from tests.docs.generate import ROOT
from tests.servers import leave_out

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]

GENERATOR = ROOT / ".venv/client/bin/openapi-python-client"
PAGE = ROOT / "docs/client.md"
_MYPY = """\
[mypy]
strict = true
# Not from the document: the generator's own frame, and a stream, for which it has no reader.
[mypy-gateway_client.client,gateway_client.api.events.stream_events]
ignore_errors = true
"""


class Client:
    """A gateway with one connected mailbox, and the folder in which the client was made as the page says."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.folder = world, folder
        admin = world.admin()
        admin.ask("PUT", "/tenants/acme", json={"name": "Acme"})
        admin.ask("PUT", "/tenants/acme/subscription", json={"plan": "standard"})
        body = {"name": "the CRM", "scopes": ["crm"], "tenant_id": "acme"}
        self.token = admin.json("POST", "/tokens", json=body)["token"]
        admin.close()
        offer = EmailMessage()
        offer["From"], offer["To"], offer["Subject"] = BOB, ANN, "Offer"
        offer["Message-ID"] = "<offer@other.example>"
        offer.set_content("Please make me an offer.\n")
        world.accounts[ANN].add(offer.as_bytes().replace(b"\n", b"\r\n"))
        self.shell, self.make, self.python = self._blocks()
        self.run(["bash", "-euo", "pipefail", "-c", self.make])

    def _blocks(self) -> tuple[str, str, str]:
        """The page's code, with the addresses of the test's servers: to be typed, to make the client, to use it."""
        page = PAGE.read_text(encoding="utf-8")
        page = page.replace("http://127.0.0.1:8025", self.world.url)
        page = page.replace("docs/openapi-client.yml", str(ROOT / "docs/openapi-client.yml"))
        page = page.replace("correct horse", self.world.accounts[ANN].password)
        for kind, real in (("imap", self.world.dovecot.port), ("smtp", self.world.postfix.port)):
            named = rf'"host": "{kind}.acme.example", "port": \d+, "security": "tls"'
            page, count = re.subn(named, f'"host": "127.0.0.1", "port": {real}, "security": "none"', page)
            assert count == 1
        shell = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
        make = [block for block in shell if "openapi-python-client generate" in block]
        python = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
        assert len(make) == 1
        return "\n".join(block for block in shell if block not in make), make[0], "\n".join(python)

    def run(self, command: list[str], **more: str) -> str:
        """What the command prints, and behind that what it complains of. It must succeed."""
        environment = {**os.environ, "MAILGATE_TOKEN": self.token, "MAILGATE_URL": self.world.url, **more}
        environment["PATH"] = f"{GENERATOR.parent}:{environment['PATH']}"
        environment["PYTHONPATH"] = str(self.folder)
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


@contextmanager
def takes_everything() -> Iterator[int]:
    """The port of a receiver of webhooks that answers 204 to each."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join(30)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    if not GENERATOR.exists():
        leave_out("openapi-python-client", None, instead="run .ci/setup-venv dev")
    with running(ANN, BOB) as world:
        world.start()
        yield Client(world, tmp_path_factory.mktemp("client"))


def test_what_the_page_says_works_and_the_client_is_typed(client: Client) -> None:
    """In the page's order; then everything that a CRM does, with the same client."""
    said = client.run(["bash", "-euo", "pipefail", "-c", client.shell])
    assert "Please make me an offer.\n" in said
    assert "message_not_found\n" in said
    (client.folder / "page.py").write_text(client.python, encoding="utf-8")
    assert client.run([sys.executable, "page.py"]).split("\n") == ["Please make me an offer.", "", "sent", ""]

    story = Path(__file__).with_name("client_story.py")
    with takes_everything() as port:
        client.run([sys.executable, str(story)], MAILGATE_TOKEN=ADMIN, HOOK=f"http://127.0.0.1:{port}/")

    (client.folder / "story.py").write_text(story.read_text(encoding="utf-8"), encoding="utf-8")
    (client.folder / "mypy.ini").write_text(_MYPY)
    mypy = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--cache-dir", "/dev/null"]
    client.run([*mypy, "page.py", "story.py", "gateway_client"])


def test_nothing_of_the_document_is_left_out(client: Client) -> None:
    """The generator warns of what it does not understand; each operation has its module."""
    again = client.make.replace("gateway_client", "again_client")
    said = client.run(["bash", "-euo", "pipefail", "-c", again])
    assert "WARNING" not in said.upper()
    document = httpx.get(f"{client.world.url}/openapi.json", timeout=120).json()
    modules = {path.stem for path in (client.folder / "again_client/api").glob("*/*.py")} - {"__init__"}
    assert modules == {each["operationId"] for path in document["paths"].values() for each in path.values()}
