"""What storing and reading a message costs, step by step, beside the raw limit of each step.

    python -m tests.bench.bench_blobs [--messages N] [--rounds R] [--directory DIR]

Rounds alternate between the variants; the table shows medians. One thread, so that the figures add up to what one
importing worker can do; `put` and the parser leave the interpreter's lock for most of their time, so threads overlap.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import obstore
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from fast_mail_parser import parse_email_tree
from obstore.store import LocalStore

from mailgate.blobs import BlobStore
from mailgate.blobs.frames import open_blob, seal_blob
from mailgate.keys import KeyRing
from mailgate.messages import encode_summary, header_digest_input, message_terms, parse, parse_summary, seal_summary

NOW = 1_795_000_000_000_000
BATCH = 200


def mail(size: int, number: int, rng: random.Random) -> bytes:
    """A mail of about `size` bytes as they are usual: text, HTML and a file for large ones, headers of three hops."""
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 10))) for _ in range(400)]

    def lines(count: int) -> bytes:
        return b"".join(" ".join(rng.choices(words, k=10)).encode() + b"\r\n" for _ in range(max(1, count)))

    head = (
        b"Received: from a.example by b.example with ESMTPS id 1; Mon, 2 Nov 2026 10:00:00 +0000\r\n" * 3
        + b"DKIM-Signature: v=1; a=rsa-sha256; d=example.org;\r\n\tb=" + rng.randbytes(120).hex().encode() + b"\r\n"
        + b"From: Anna Example <anna@example.org>\r\nTo: Bert <bert@example.com>, c@example.com\r\n"
        + b"Subject: message %d about the quarter\r\n" % number
        + b"Date: Mon, 2 Nov 2026 10:00:00 +0100\r\nMessage-ID: <%d@example.org>\r\nMIME-Version: 1.0\r\n" % number
    )  # fmt: skip
    if size < 5_000:
        return head + b"Content-Type: text/plain; charset=utf-8\r\n\r\n" + lines((size - len(head)) // 62)
    text = lines(30)
    paragraphs = b"".join(b"<p style='margin:0'>" + lines(2) + b"</p>" for _ in range(40))
    html = b"<html><body>" + paragraphs + b"</body></html>"
    rest = max(500, size - len(head) - len(text) - len(html) - 500)
    file = base64.encodebytes(rng.randbytes(rest * 3 // 4)).replace(b"\n", b"\r\n")
    return b"".join([
        head, b"Content-Type: multipart/mixed; boundary=mm\r\n\r\n",
        b"--mm\r\nContent-Type: multipart/alternative; boundary=aa\r\n\r\n",
        b"--aa\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n", text,
        b"\r\n--aa\r\nContent-Type: text/html; charset=utf-8\r\n\r\n", html, b"\r\n--aa--\r\n",
        b"--mm\r\nContent-Type: application/pdf; name=report.pdf\r\nContent-Transfer-Encoding: base64\r\n",
        b"Content-Disposition: attachment; filename=report.pdf\r\n\r\n", file, b"--mm--\r\n",
    ])  # fmt: skip


Seconds = tuple[float, float]
Step = Callable[[list[bytes]], None]


def each(action: Callable[[bytes], object]) -> Step:
    """A step that takes the messages one by one."""

    def step(mails: list[bytes]) -> None:
        for data in mails:
            action(data)

    return step


def measure(steps: dict[str, Step], mails: list[bytes], rounds: int) -> dict[str, Seconds]:
    """Seconds of the clock and of the processor a message, each the median of alternating rounds."""
    taken: dict[str, list[Seconds]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            started, used = time.perf_counter(), time.process_time()
            step(mails)
            taken[name].append((time.perf_counter() - started, time.process_time() - used))
    return {
        name: (
            statistics.median(clock for clock, _ in values) / len(mails),
            statistics.median(used for _, used in values) / len(mails),
        )
        for name, values in taken.items()
    }


def all_steps(root: Path) -> dict[str, Step]:
    """Each step of storing and reading; the raw limits first."""
    root.mkdir()
    keys = KeyRing.open(f"file://{root}/keys", create=True).create_tenant("t1", NOW)
    store = BlobStore.open(f"file://{root}/blobs")
    plain = LocalStore(root / "plain", mkdir=True)
    key = keys.new_data_key(NOW).key
    compressor = zstandard.ZstdCompressor(level=1)
    sealed: dict[bytes, bytes] = {}

    def summarize(data: bytes) -> bytes:
        return seal_summary(key, "m", encode_summary(parse_summary(data)))

    def put(mails: list[bytes]) -> None:
        for start in range(0, len(mails), BATCH):
            for data in mails[start : start + BATCH]:
                store.put("t1", os.urandom(13).hex(), data, keys.new_data_key(NOW).key)
            store.settle()

    def everything(mails: list[bytes]) -> None:
        for start in range(0, len(mails), BATCH):
            for data in mails[start : start + BATCH]:
                blob_key = keys.new_data_key(NOW)
                keys.new_data_key(NOW)
                keys.mac("content", data)
                keys.mac("header", header_digest_input(data))
                summarize(data)
                store.put("t1", os.urandom(13).hex(), data, blob_key.key)
            store.settle()

    def seal(data: bytes) -> None:
        sealed[data] = seal_blob("t1", "b", key, data)

    return {
        "SHA-256 (raw)": each(hashlib.sha256),
        "zstd-1 (raw)": each(compressor.compress),
        "AES-256-GCM (raw)": each(lambda data: AESGCM(key).encrypt(bytes(12), data, None)),
        "obstore put, not durable (raw)": each(
            lambda data: obstore.put(plain, os.urandom(8).hex(), data, use_multipart=False)
        ),
        "MIME tree (raw)": each(parse_email_tree),
        "data key, wrapped": each(lambda data: keys.new_data_key(NOW)),
        "content identity": each(lambda data: keys.mac("content", data)),
        "header identity": each(lambda data: keys.mac("header", header_digest_input(data))),
        "summary parsed": each(parse_summary),
        "summary parsed, encoded, sealed": each(summarize),
        "bodies parsed, search terms": each(lambda data: message_terms(parse(data))),
        "blob sealed": each(seal),
        "blob opened": each(lambda data: open_blob("t1", "b", key, sealed[data], len(data))),
        "blob put, durable by batch": put,
        "an import's work but rows": everything,
    }


def report(size: int, mails: list[bytes], medians: dict[str, Seconds]) -> None:
    """One line for each step: microseconds a message by clock and processor, messages and megabytes a second."""
    octets = sum(map(len, mails)) / len(mails)
    asked = f"asked: {size / 1000:.1f}"
    sys.stdout.write(f"\nmessages of {octets / 1000:.1f} kB ({asked}), {len(mails)} of them, batches of {BATCH}\n")
    for name, (seconds, used) in medians.items():
        micros = f"{seconds * 1e6:9.1f} µs {used * 1e6:9.1f} µs cpu"
        sys.stdout.write(f"  {name:34} {micros} {1 / seconds:10,.0f} /s {octets / seconds / 1e6:9,.0f} MB/s\n")


def main() -> None:
    """Print one table for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(dir=options.directory))
    try:
        for size in (2_300, 43_000):
            rng = random.Random(size)
            mails = [mail(size, number, rng) for number in range(options.messages)]
            report(size, mails, measure(all_steps(root / str(size)), mails, options.rounds))
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
