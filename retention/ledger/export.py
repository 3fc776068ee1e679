"""Handing a log out: as a folder of C2SP tiles that anybody can verify, as NDJSON, as CSV. Memory does not grow.

The folder appears whole or not at all: it is written beside its place and renamed.
"""

from __future__ import annotations

import csv
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from hashlib import file_digest, sha256
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TextIO

from .canonical import encode_checked
from .certificate import RunTallies, dumps, sign_certificate
from .certificate_page import run_page, sign_page
from .checkpoint import open_checkpoint
from .directory import CERTIFICATES, CHECKPOINT, STAMP, STAMPED, SUMS, VKEY, LogDirectory
from .note import Signer, Verifier
from .schema import Leaf, parse_leaf
from .tiles import ENTRIES, TILE_WIDTH, Tile, TileBuilder, encode_bundle
from .tree import leaf_hash


class ExportError(Exception):
    """The target is in use."""


class OtherLogError(ExportError):
    """The leaves are not the log that the checkpoint signs."""


class DirectoryExport:
    """Writes an exported log to a folder that does not exist yet (or is empty).

        with DirectoryExport(path, key) as export:
            for batch in batches:
                export.add(batch)
            export.finish(checkpoint)

    Leaving the block without `finish` leaves nothing behind. Blocking: call it from a thread.
    """

    def __init__(self, path: Path, key: Verifier, *, certifier: Signer | None = None) -> None:
        """`certifier`: the log's key signs a certificate of every run that ended, for programs and for people."""
        self._path = path
        self._key = key
        self._certifier = certifier
        self._tallies = None if certifier is None else RunTallies()
        self._bodies: list[bytes] = []
        self._size = 0
        self._folders: set[Path] = set()

    def __enter__(self) -> Self:
        self._folder = _beside(self._path)
        self._sums = (self._folder / SUMS).open("w", encoding="utf-8")
        self._tiles = TileBuilder(lambda tile, data: self._write(tile.path, data))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._sums.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, bodies: Iterable[bytes]) -> None:
        """Append leaves, in order, from index 0 on."""
        for body in bodies:
            if self._tallies is not None:
                self._tallies.feed(self._size + len(self._bodies), body)
            self._bodies.append(body)
            if len(self._bodies) == TILE_WIDTH:
                self._bundle()

    def finish(self, checkpoint: bytes, stamped: tuple[bytes, bytes] | None = None) -> None:
        """`complete` and `put`."""
        self.complete(checkpoint, stamped)
        self.put()

    def put(self) -> None:
        """Put the complete folder in its place."""
        _put(self._folder, self._path)

    def complete(self, checkpoint: bytes, stamped: tuple[bytes, bytes] | None = None) -> None:
        """Write what is left and the signed checkpoint. `stamped`: a checkpoint of the log, this or an older one, and
        the answer of a time-stamping authority about it.

        Raises OtherLogError when the leaves added are not what the checkpoint signs.
        """
        if self._bodies:
            self._bundle()
        root = self._tiles.finish()
        signed = open_checkpoint(checkpoint, self._key)
        if (signed.size, signed.root) != (self._size, root):
            raise OtherLogError(f"the checkpoint signs {signed.size} leaves, these are {self._size} or others")
        self._write(CHECKPOINT, checkpoint)
        self._write(VKEY, self._key.vkey.encode() + b"\n")
        self._certificates(checkpoint)
        for name, data in zip((STAMPED, STAMP), stamped or (), strict=False):
            self._write(name, data)
        self._sums.close()

    def _certificates(self, checkpoint: bytes) -> None:
        if self._tallies is None or self._certifier is None:
            return
        nodes = LogDirectory(self._folder).nodes(self._size)
        for told in self._tallies.certify(checkpoint, nodes, self._key):
            name = f"{CERTIFICATES}/{told['run']['id']}"
            self._write(f"{name}.json", dumps(sign_certificate(told, self._certifier)).encode())
            self._write(f"{name}.html", sign_page(run_page(told), self._certifier).encode())

    def _bundle(self) -> None:
        tile = Tile(ENTRIES, self._size // TILE_WIDTH, len(self._bodies))
        self._write(tile.path, encode_bundle(self._bodies))
        self._tiles.add(b"".join(map(leaf_hash, self._bodies)))
        self._size += len(self._bodies)
        self._bodies.clear()

    def _write(self, name: str, data: bytes) -> None:
        path = self._folder / name
        if path.parent not in self._folders:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._folders.add(path.parent)
            if len(self._folders) > TILE_WIDTH:
                self._folders.clear()
        path.write_bytes(data)
        self._sums.write(f"{sha256(data).hexdigest()}  {name}\n")


class TableExport:
    """Writes leaves as one file, `ndjson` or `csv`, with SHA256SUMS beside it, to a folder that does not exist yet (or
    is empty). Used as DirectoryExport is; blocking.
    """

    def __init__(self, path: Path, format_: str) -> None:
        self._path = path
        self._name = f"entries.{format_}"
        self._csv = format_ == "csv"

    def __enter__(self) -> Self:
        self._folder = _beside(self._path)
        self._file = (self._folder / self._name).open("w", encoding="utf-8", newline="")
        if self._csv:
            write_csv((), self._file)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, leaves: Iterable[tuple[int, bytes]]) -> None:
        """Append leaves with their indices."""
        if self._csv:
            write_csv(leaves, self._file, header=False)
        else:
            self._file.writelines(f"{body.decode()}\n" for _, body in leaves)

    def finish(self) -> None:
        """`complete` and `put`."""
        self.complete()
        self.put()

    def put(self) -> None:
        """Put the complete folder in its place."""
        _put(self._folder, self._path)

    def complete(self) -> None:
        """Write what is left, and the sums."""
        self._file.close()
        with (self._folder / self._name).open("rb") as file:
            digest = file_digest(file, "sha256").hexdigest()
        (self._folder / SUMS).write_text(f"{digest}  {self._name}\n", encoding="utf-8")


def _beside(path: Path) -> Path:
    """A new folder beside the place where it is to stand. Raises ExportError when that is in use."""
    if path.exists():
        if not path.is_dir():
            raise ExportError(f"{path} is there already and no folder")
        if any(path.iterdir()):
            raise ExportError(f"{path} is there already and not empty")
    path.parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))


def _put(folder: Path, path: Path) -> None:
    folder.chmod(0o755)
    os.replace(folder, path)  # noqa: PTH105 - an empty folder in its place is replaced


def export_directory(path: Path, key: Verifier, checkpoint: bytes, bodies: Iterable[bytes]) -> None:
    """Write a whole log to a folder. Raises ExportError, NoteError, OSError; then nothing is left behind."""
    with DirectoryExport(path, key) as export:
        export.add(bodies)
        export.finish(checkpoint)


def write_ndjson(bodies: Iterable[bytes], out: BinaryIO) -> None:
    """Leaves as lines: each line without its newline is the leaf, byte for byte, and hashes as in the log."""
    out.writelines(body + b"\n" for body in bodies)


_COMMON_COLUMNS = ("type", "id", "at", "origin", "tenant_ref", "run")
_FLATTENED = {
    "actor": ("kind", "ref"),
    "policy": ("ver", "sha256"),
    "build": ("version", "commit"),
    "anchor": ("at", "src"),
    "checks": ("pins", "holds"),
    "blobs": ("refs", "freed", "bytes"),
}
_OWN_COLUMNS = (
    "item_ref", "mailbox_ref", "plan", "days", "due_at", "reason", "method", "original", "content_commit",
    "msgid_commit",
)  # fmt: skip
CSV_COLUMNS = (
    "index",
    *_COMMON_COLUMNS,
    *(f"{field}_{part}" for field, parts in _FLATTENED.items() for part in parts),
    *_OWN_COLUMNS,
    "more",
)
"""Columns of the CSV form; `more` holds what has no column of its own, as canonical JSON."""


def write_csv(bodies: Iterable[tuple[int, bytes]], out: TextIO, *, header: bool = True) -> None:
    """Leaves with their indices as CSV (RFC 4180). Cells that a spreadsheet would run are neutralised."""
    writer = csv.writer(out)
    if header:
        writer.writerow(CSV_COLUMNS)
    for index, body in bodies:
        row = {name: neutral(str(value)) for name, value in _cells(parse_leaf(body))}
        writer.writerow([index, *(row.get(name, "") for name in CSV_COLUMNS[1:])])


def _cells(leaf: Leaf) -> Iterator[tuple[str, Any]]:
    more: Leaf = {}
    for field, value in leaf.items():
        if field in _FLATTENED:
            yield from ((f"{field}_{part}", value[part]) for part in _FLATTENED[field])
        elif field in _COMMON_COLUMNS or field in _OWN_COLUMNS:
            yield field, value
        elif field != "v":
            more[field] = value
    if more:
        # Where the separator of lists is a semicolon, a spreadsheet would begin a cell behind each.
        yield "more", encode_checked(more).decode().replace(";", "\\u003b")


def neutral(cell: str) -> str:
    """The cell, behind an apostrophe when a spreadsheet would take it for a formula."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell
