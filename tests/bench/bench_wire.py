"""The wire layer against the limit of the server: `fetch_bodies` into a sink that throws away, beside a raw socket.

    python -m tests.bench.bench_wire [--messages N] [--rounds R]

Both ask Dovecot on loopback for the same messages and metadata. The raw side is one FETCH, read with a blocking socket
and thrown away. Rounds alternate, so that what else the machine does hits both; the table shows medians, and the ratio
of medians. On a busy machine look at the ratio of the best rounds, and at the processor time that a message costs us.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import re
import socket
import ssl
import statistics
import sys
import time
from collections.abc import Iterator

import uvloop

from connectors.imap.connection import connect_imap
from connectors.model import Endpoint, PasswordAuth, Security
from connectors.net import parse_networks
from tests.dovecot import Account, Dovecot, start_dovecot

LOOPBACK = parse_networks(["127.0.0.0/8"])
ITEMS = "(UID FLAGS INTERNALDATE RFC822.SIZE MODSEQ BODY.PEEK[])"


def messages(count: int) -> Iterator[tuple[bytes, int]]:
    """Sizes spread like those of real mail: many small, few large, about 43 kB in the mean."""
    rng = random.Random(1)
    line = b"0123456789abcdef" * 4 + b"\r\n"
    for n in range(count):
        size = min(int(rng.lognormvariate(9.4, 1.55)), 5_000_000)
        head = b"Subject: %d\r\nMessage-ID: <%d@bench.example>\r\n\r\n" % (n, n)
        yield head + line * (size // len(line) + 1), 1_700_000_000_000_000 + n * 60_000_000


class Throwaway:
    """A sink that counts."""

    __slots__ = ("octets",)

    def __init__(self, announced: int) -> None:
        self.octets = 0

    def write(self, chunk: memoryview, /) -> None:
        self.octets += len(chunk)


def raw(server: Dovecot, account: Account, *, tls: bool) -> tuple[float, int]:
    """Seconds and bytes of one FETCH of everything."""
    port = server.tls_port if tls else server.port
    sock: socket.socket = socket.create_connection((server.host, port))
    if tls:
        sock = server.ssl_context().wrap_socket(sock, server_hostname=server.host)
    with contextlib.closing(sock):
        buffer = bytearray(1 << 20)

        def until(done: re.Pattern[bytes]) -> int:
            total, tail = 0, b""
            while done.search(tail) is None:
                n = sock.recv_into(buffer)
                if n == 0:
                    raise ConnectionError("the server hung up")
                total += n
                tail = (tail + bytes(buffer[max(0, n - 2_000) : n]))[-2_000:]
            return total

        until(re.compile(rb"\r\n\Z"))
        for tag, command in ((b"a", f'LOGIN {account.name} "{account.password}"'), (b"b", "EXAMINE INBOX")):
            sock.sendall(tag + b" " + command.encode() + b"\r\n")
            until(re.compile(tag + rb" OK [^\r]*\r\n\Z"))
        begin = time.perf_counter()
        sock.sendall(b"c UID FETCH 1:* " + ITEMS.encode() + b"\r\n")
        total = until(re.compile(rb"c OK [^\r]*\r\n\Z"))
        return time.perf_counter() - begin, total


async def ours(server: Dovecot, account: Account, *, tls: bool, context: ssl.SSLContext) -> tuple[float, int, int]:
    """Seconds, messages, bytes of bodies."""
    endpoint = Endpoint(server.host, server.tls_port if tls else server.port, Security.TLS if tls else Security.NONE)
    auth = PasswordAuth(account.name, account.password)
    source = await connect_imap(endpoint, auth, ssl_context=context, allow_networks=LOOPBACK)
    try:
        await source.open("INBOX")
        uids = await source.list_uids()
        count = octets = 0
        begin = time.perf_counter()
        async for fetched in source.fetch_bodies(uids, Throwaway):
            count += 1
            octets += fetched.octets
        return time.perf_counter() - begin, count, octets
    finally:
        await source.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--messages", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with contextlib.contextmanager(start_dovecot)() as server:
        account = server.account()
        count = account.seed(messages(options.messages))
        context = server.ssl_context()
        print(
            f"{count} messages, {options.rounds} rounds, Python {sys.version.split()[0]}, uvloop {uvloop.__version__}"
        )
        print(
            f"{'line':<6} {'raw msgs/s':>11} {'raw MB/s':>9} {'ours msgs/s':>12} {'ours MB/s':>10} "
            f"{'ratio':>6} {'of bests':>9} {'cpu µs/msg':>11}"
        )
        for tls in (False, True):
            raw(server, account, tls=tls)  # once unmeasured: Dovecot builds its index
            raw_s: list[float] = []
            our_s: list[float] = []
            cpu_s: list[float] = []
            raw_bytes = our_bytes = 0
            for _ in range(options.rounds):
                seconds, raw_bytes = raw(server, account, tls=tls)
                raw_s.append(seconds)
                begin = time.process_time()
                seconds, got, our_bytes = uvloop.run(ours(server, account, tls=tls, context=context))
                cpu_s.append(time.process_time() - begin)
                our_s.append(seconds)
                if got != count:
                    raise RuntimeError(f"{got} of {count} messages came")
            r, o = statistics.median(raw_s), statistics.median(our_s)
            print(
                f"{'TLS' if tls else 'plain':<6} {count / r:>11.0f} {raw_bytes / r / 1e6:>9.0f} "
                f"{count / o:>12.0f} {our_bytes / o / 1e6:>10.0f} {r / o:>6.2f} {min(raw_s) / min(our_s):>9.2f} "
                f"{statistics.median(cpu_s) / count * 1e6:>11.1f}"
            )


if __name__ == "__main__":
    main()
