"""The request: what may be reached, and what is taken of an answer."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from connectors.net import parse_networks
from mailgate.errors import PreconditionError
from mailgate.webhooks.calling import Caller, check_url, host_of
from mailgate.webhooks.model import SHOWN
from tests.certificates import make_certificates
from tests.receiver import ok, serving
from tests.servers import free_port

HERE = parse_networks(["127.0.0.0/8"])


@pytest.mark.parametrize(
    "url",
    [
        "http://crm.example/hook",
        "ftp://crm.example/hook",
        "https://",
        "https:///hook",
        "crm.example/hook",
        "https://crm.example/a hook",
        "https://127.0.0.1\\.crm.example/",
        " https://crm.example/hook",
        "https://crm.example/hook ",
        "https://crm.example/ho\u00a0ok",
        "https://crm.example/hook?key=\u200b1",
        "https://user@crm.example/",
        "https://user:secret@crm.example/",
        "https://crm.example/#part",
        "https://crm.example:0/",
        "https://crm.example:99999/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://169.254.169.254/latest/meta-data",
        "https://10.1.2.3/",
        "https://crm.example/" + "a" * 2_000,
        "https://crm.example/\n",
        "",
    ],
)
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(PreconditionError) as refused:
        check_url(url, allow_http=False)
    assert refused.value.slug == "url_invalid"
    assert "secret" not in refused.value.detail


def test_a_blank_in_a_url_is_named() -> None:
    with pytest.raises(PreconditionError, match="blank"):
        check_url("https://crm.example/a hook", allow_http=False)


def test_urls_that_are_taken() -> None:
    assert check_url("https://crm.example/hook?key=1", allow_http=False) == "https://crm.example/hook?key=1"
    assert check_url("http://crm.example/", allow_http=True) == "http://crm.example/"
    assert check_url("https://127.0.0.1:8443/", allow_http=False, allow=HERE) == "https://127.0.0.1:8443/"
    assert host_of("https://crm.example/secret") == "crm.example"


@asynccontextmanager
async def calling(
    context: ssl.SSLContext | None = None, *, addresses: Sequence[str] = ("127.0.0.1",), timeout_s: float = 15.0
) -> AsyncIterator[tuple[Caller, list[str]]]:
    asked: list[str] = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return addresses

    caller = Caller(context or ssl.create_default_context(), allow=HERE, timeout_s=timeout_s, resolver=resolve)
    try:
        yield caller, asked
    finally:
        await caller.close()


async def test_a_request_and_its_answer() -> None:
    async with serving(ok(b"thanks")) as (receiver, port), calling() as (call, _):
        answer = await call(f"http://crm.example:{port}/hook?a=1", {"webhook-id": "msg_1"}, b'{"a":1}')
    assert (answer.status, answer.text, answer.error) == (200, "thanks", None)
    (request,) = receiver.requests
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /hook?a=1 HTTP/1.1\r\n")
    assert f"host: crm.example:{port}".encode() in head.lower()
    assert b"webhook-id: msg_1" in head
    assert body == b'{"a":1}'


async def test_a_connection_is_used_again() -> None:
    async with serving(ok(b"")) as (receiver, port), calling() as (call, asked):
        for _ in range(3):
            assert (await call(f"http://crm.example:{port}/", {}, b"{}")).delivered
    assert (receiver.connections, len(receiver.requests), asked) == (1, 3, ["crm.example"])


async def test_a_redirect_is_not_followed() -> None:
    moved = ok(b"", "302 Found", "location: http://169.254.169.254/\r\n")
    async with serving(moved) as (receiver, port), calling() as (call, asked):
        answer = await call(f"http://crm.example:{port}/", {}, b"{}")
    assert (answer.status, answer.delivered) == (302, False)
    assert (len(receiver.requests), asked) == (1, ["crm.example"])


async def test_of_an_answer_little_is_kept() -> None:
    async with serving(ok(b"\x00\xff" + b"x" * 1_000_000)) as (_, port), calling() as (call, _asked):
        answer = await call(f"http://crm.example:{port}/", {}, b"{}")
    assert answer.delivered
    assert answer.text is not None
    assert len(answer.text) == SHOWN
    assert "\0" not in answer.text


async def test_retry_after_comes_with_it() -> None:
    busy = ok(b"", "503 Busy", "Retry-After: 120\r\n")
    async with serving(busy) as (_, port), calling() as (call, _asked):
        assert (await call(f"http://crm.example:{port}/", {}, b"{}")).retry_after == "120"


async def test_silence_ends() -> None:
    async with serving(b"") as (_, port), calling(timeout_s=0.05) as (call, _asked):
        answer = await call(f"http://crm.example:{port}/", {}, b"{}")
    assert answer.error == "no answer within 0.05 s"


@pytest.mark.parametrize("answer", [b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 9999 x\r\n\r\n"])
async def test_what_is_no_http(answer: bytes) -> None:
    async with serving(answer) as (_, port), calling() as (call, _asked):
        said = await call(f"http://crm.example:{port}/", {}, b"{}")
    assert said.error is not None
    assert said.status is None


async def test_a_line_that_is_closed_is_called_so() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")  # the whole request: what is not read would reset the line
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server, calling() as (call, _asked):
        answer = await call(f"http://crm.example:{server.sockets[0].getsockname()[1]}/", {}, b"{}")
    assert answer.error == "the connection was closed before an answer"


async def test_a_port_at_which_nobody_listens_refuses() -> None:
    async with calling() as (call, _asked):
        answer = await call(f"http://crm.example:{free_port()}/", {}, b"{}")
    assert answer.error == "Connection refused"


@pytest.mark.parametrize("address", ["10.0.0.1", "169.254.169.254", "::1", "::ffff:192.168.0.1", "fe80::1"])
async def test_a_name_of_a_private_address_is_refused_without_a_connection(address: str) -> None:
    async with calling(addresses=[address]) as (call, _):
        answer = await call("https://crm.example/", {}, b"{}")
    assert answer.error is not None
    assert "not on the public internet" in answer.error


async def test_exactly_the_judged_address_is_connected_to() -> None:
    """DNS that answers otherwise the second time is not asked a second time; a refused address beside is left out."""
    async with serving(ok(b"")) as (receiver, port), calling(addresses=["10.0.0.1", "127.0.0.1"]) as (call, asked):
        assert (await call(f"http://rebound.example:{port}/", {}, b"{}")).delivered
    assert (receiver.connections, asked) == (1, ["rebound.example"])


async def test_tls_is_for_the_name_and_not_for_the_address(tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(made.certificate, made.key)
    trust = ssl.create_default_context(cafile=str(made.ca))
    async with serving(ok(b""), server) as (receiver, port), calling(trust) as (call, _):
        assert (await call(f"https://localhost:{port}/", {}, b"{}")).delivered
        other = await call(f"https://other.example:{port}/", {}, b"{}")
    assert receiver.names == ["localhost", "other.example"]
    assert other.error is not None
    assert "certificate" in other.error.lower()


@asynccontextmanager
async def answering(first: bytes, drop: bytes) -> AsyncIterator[int]:
    """The port of a server that answers `first`, then `drop` again and again; without a `drop` it hangs up."""
    handlers: list[asyncio.Task[None] | None] = []
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.append(asyncio.current_task())
        with contextlib.suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(first)
            while drop and not over.is_set():
                writer.write(drop)
                await writer.drain()
                await asyncio.sleep(0.01)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        over.set()
        server.close()
        await asyncio.gather(*[handler for handler in handlers if handler is not None])


@pytest.mark.parametrize(
    ("first", "drop"),
    [
        (b"", b"H"),
        (b"HTTP/1.1 200 OK\r\n", b"x-drop: 1\r\n"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", b""),
    ],
    ids=["status", "header", "continue", "body", "chunks", "dies in its body"],
)
async def test_an_answer_that_drips_or_dies_is_none(first: bytes, drop: bytes) -> None:
    """Each byte comes soon after the one before, and the answer never ends; or its end never comes."""
    caller = Caller(ssl.create_default_context(), allow=HERE, timeout_s=0.5)
    async with answering(first, drop) as port:
        answer = await caller(f"http://127.0.0.1:{port}/", {}, b"{}")
        await caller.close()
    assert not answer.delivered
    assert answer.error
