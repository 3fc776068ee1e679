"""The auditor of the demonstration: a folder with the exported log, a key, and the verifier copied alone. No
gateway.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import retention.ledger


@dataclass(frozen=True, slots=True)
class Verdict:
    """How the stand-alone verifier ended; `report` is what it printed with --json."""

    ok: bool
    report: dict[str, Any]
    text: str


class Auditor:
    """Works in `folder`, where it puts a copy of `retention/ledger` and nothing else of this program."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        source = Path(retention.ledger.__file__).parent
        shutil.copytree(source, self.folder / "ledger", ignore=shutil.ignore_patterns("__pycache__"))

    def unpack(self, archive: Path, name: str) -> Path:
        """Unpacks an exported log (tar or zip) as the folder `name`, which holds the checkpoint; returns it."""
        target = self.folder / f"{name}.unpacked"
        target.mkdir()
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(target)  # noqa: S202 - zipfile keeps members inside the target
        else:
            with tarfile.open(archive) as packed:
                packed.extractall(target, filter="data")
        found = sorted(target.rglob("checkpoint"))
        if not found:
            raise FileNotFoundError(f"the export {archive.name} has no checkpoint")
        log = found[0].parent.rename(self.folder / name)
        shutil.rmtree(target, ignore_errors=True)
        return log

    async def check(self, command: str, log: Path, vkey: str) -> Verdict:
        """Runs `python -m ledger verify|replay` on the log in a process that sees neither the gateway nor its
        settings.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "ledger", command, str(log), "--vkey", vkey, "--json",
            cwd=self.folder,
            env={"PATH": ""},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, errors = await process.communicate()
        try:
            report = json.loads(out)
        except ValueError:
            report = {}
        return Verdict(process.returncode == 0, report, (out + errors).decode("utf-8", "replace"))

    def tampered(self, log: Path) -> Path:
        """A copy of the log in which one letter of one entry was changed, as a forger would."""
        copy = self.folder / (log.name + "-tampered")
        shutil.copytree(log, copy)
        entries = sorted(path for path in (copy / "tile" / "entries").rglob("*") if path.is_file())
        data = bytearray(entries[0].read_bytes())
        at = data.index(b'"item.purge"') + 6 if b'"item.purge"' in data else len(data) // 2
        data[at] ^= 1
        entries[0].write_bytes(bytes(data))
        return copy
