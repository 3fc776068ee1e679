"""Attachments that open: small PDF, PNG, CSV, ZIP and calendar files, made from scratch."""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib

from mailgate.demo import mime
from mailgate.demo.phrases import COMPANIES, Voice


def any_file(rng: random.Random, voice: Voice, title: str) -> mime.Part:
    """A file that fits `title`, named in the language of `voice`."""
    stem = title.split(":")[-1].strip().replace("/", "-").replace('"', "")[:40]
    kind = rng.choice(("pdf", "pdf", "png", "csv", "zip", "ics"))
    if kind == "pdf":
        return mime.file_part(f"{stem}.pdf", "application/pdf", pdf(title, rng))
    if kind == "png":
        return picture(rng, f"{stem}.png")
    if kind == "csv":
        return mime.file_part(f"{stem}.csv", "text/csv", csv(rng))
    if kind == "zip":
        return mime.file_part(f"{stem}.zip", "application/zip", archive(rng))
    return mime.file_part("invite.ics", "text/calendar; method=REQUEST", calendar(rng, voice, stem))


def picture(rng: random.Random, filename: str, *, inline_id: str | None = None) -> mime.Part:
    return mime.file_part(filename, "image/png", png(rng, rng.randrange(24, 96)), inline_id=inline_id)


def picture_of(rng: random.Random, size: int) -> mime.Part:
    """A file of `size` bytes that does not shrink, as photographs do not."""
    return mime.file_part(
        f"IMG_{rng.randrange(10**4):04d}.jpg", "image/jpeg", b"\xff\xd8\xff\xe0" + rng.randbytes(size)
    )


def png(rng: random.Random, width: int) -> bytes:
    """A square of two colours that run into each other."""
    first, second = (bytes(rng.randrange(256) for _ in range(3)) for _ in range(2))
    rows = bytearray()
    for y in range(width):
        rows.append(0)
        for x in range(width):
            share = (x + y) / (2 * width)
            rows += bytes(int(a * (1 - share) + b * share) for a, b in zip(first, second, strict=True))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, width, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(rows))) + chunk(b"IEND", b"")
    )


def pdf(title: str, rng: random.Random) -> bytes:
    """One page with a few lines of text (ISO 32000-1)."""
    shown = title.encode("latin-1", "replace").replace(b"\\", b"").replace(b"(", b"").replace(b")", b"")
    lines = [shown, *(f"Item {n}: {rng.randrange(10, 9000)}.00".encode() for n in range(1, rng.randrange(4, 30)))]
    text = b"".join(b"(" + line + b") Tj T*\n" for line in lines)
    stream = b"BT /F1 12 Tf 14 TL 50 780 Td\n" + text + b"ET"
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        (
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R"
            b" /Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>"
        ),
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
    ]
    out, offsets = bytearray(b"%PDF-1.4\n"), []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 5\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer\n<< /Size 5 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % start
    return bytes(out)


def csv(rng: random.Random) -> bytes:
    rows = (f"{rng.randrange(10**6)};{rng.choice(COMPANIES)[0]};{rng.randrange(10**5) / 100:.2f}" for _ in range(60))
    return "\r\n".join(("number;company;amount", *rows, "")).encode()


def archive(rng: random.Random) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in ("readme.txt", "data.csv"):
            # A fixed date: the same seed gives the same bytes.
            packed.writestr(zipfile.ZipInfo(name, (2024, 1, 1, 0, 0, 0)), csv(rng))
    return out.getvalue()


def calendar(rng: random.Random, voice: Voice, title: str) -> bytes:
    day = f"2026{rng.randrange(1, 13):02d}{rng.randrange(1, 29):02d}"
    lines = (
        "BEGIN:VCALENDAR",
        "VERSION:2.0",
        "PRODID:-//mailgate//demo//EN",
        "METHOD:REQUEST",
        "BEGIN:VEVENT",
        f"UID:{rng.getrandbits(64):x}@calendar.example",
        f"DTSTAMP:{day}T080000Z",
        f"DTSTART:{day}T{rng.randrange(8, 17):02d}0000Z",
        f"SUMMARY;LANGUAGE={voice.language}:{title}",
        "END:VEVENT",
        "END:VCALENDAR",
        "",
    )
    return "\r\n".join(lines).encode()
