"""Exports: whole or not at all, never another log than the checkpoint's, safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from retention.ledger.export import CSV_COLUMNS, ExportError, export_directory, neutral, write_csv, write_ndjson
from retention.ledger.leaves import hold_place
from retention.ledger.note import NoteError, Signer
from retention.ledger.schema import parse_leaf
from retention.ledger.tree import leaf_hash
from tests.ledger_samples import DIGEST, ORIGIN, common, every_type
from tests.unit.ledger.conftest import SIGNER, Exporter, sign


def test_nothing_is_left_of_an_export_that_failed(leaves: list[bytes], tmp_path: Path) -> None:
    target = tmp_path / "out" / "log"
    for checkpoint, error in (
        (sign(leaves[:-1]), ExportError),
        (sign(leaves[::-1]), ExportError),
        (sign(leaves, Signer(ORIGIN, bytes(32))), NoteError),
    ):
        with pytest.raises(error):
            export_directory(target, SIGNER.verifier, checkpoint, leaves)
        assert list((tmp_path / "out").iterdir()) == []


def test_an_export_overwrites_nothing(exported: Exporter, leaves: list[bytes], tmp_path: Path) -> None:
    path = exported(leaves)
    before = (path / "checkpoint").read_bytes()
    with pytest.raises(ExportError):
        exported(leaves[:3])
    assert (path / "checkpoint").read_bytes() == before
    (tmp_path / "empty").mkdir()
    assert (exported(leaves, "empty") / "checkpoint").exists()
    assert (tmp_path / "empty").stat().st_mode & 0o777 == 0o755


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is not installed")
def test_sums_are_those_of_sha256sum(exported: Exporter, leaves: list[bytes]) -> None:
    path = exported(leaves)
    done = subprocess.run(["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=path, capture_output=True, check=True)
    assert done.stdout.count(b": OK\n") == sum(1 for file in path.rglob("*") if file.is_file()) - 1


def test_ndjson_lines_are_the_leaves(leaves: list[bytes]) -> None:
    out = io.BytesIO()
    write_ndjson(leaves, out)
    lines = out.getvalue().split(b"\n")
    assert [leaf_hash(line) for line in lines[:-1]] == [leaf_hash(body) for body in leaves]
    assert lines[-1] == b""


def test_csv_tells_everything(leaves: list[bytes]) -> None:
    out = io.StringIO(newline="")
    write_csv(enumerate(leaves), out)
    rows = list(csv.DictReader(io.StringIO(out.getvalue(), newline="")))
    assert len(rows) == 600
    assert tuple(rows[0]) == CSV_COLUMNS
    for row, body in zip(rows, leaves, strict=True):
        leaf = parse_leaf(body)
        assert (row["type"], row["id"], row["at"]) == (leaf["type"], leaf["id"], leaf["at"])
        shown = json.loads(row["more"]) if row["more"] else {}
        named = {name.split("_")[0] for name in CSV_COLUMNS} | set(CSV_COLUMNS) | {"v"}
        assert shown.keys() | named >= leaf.keys()
    purge = next(row for row in rows if row["type"] == "item.purge")
    shown = [purge[name] for name in ("checks_pins", "blobs_bytes", "days", "original")]
    assert shown == ["0", "4323", "60", "untouched"]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_formulas_are_neutralised(start: str) -> None:
    assert neutral(start + "cmd|' /C calc'!A0") == f"'{start}cmd|' /C calc'!A0"
    assert neutral("plain") == "plain"
    assert neutral("") == ""


def test_no_cell_begins_a_formula() -> None:
    matter = "=HYPERLINK(1);=1+1"
    odd = hold_place(common(1), hold_ref="-12", matter=matter, reason_commit=DIGEST.hex(), mailbox_ref="-x")
    out = io.StringIO(newline="")
    write_csv([(0, odd), *enumerate(every_type(), 1)], out)
    comma = csv.reader(io.StringIO(out.getvalue(), newline=""))
    semicolon = csv.reader(io.StringIO(out.getvalue(), newline=""), delimiter=";")  # as half of Europe's spreadsheets
    for row in (*comma, *semicolon):
        assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in row)
    rows = csv.DictReader(io.StringIO(out.getvalue(), newline=""))
    assert json.loads(next(rows)["more"])["matter"] == matter
