"""The auditor's command. It needs this folder, Python and `cryptography`, and no configuration:

    python -m ledger verify DIR --vkey K             everything in an exported log, hashed again
    python -m ledger replay DIR --vkey K             that, and the rules of retention proven from the leaves alone
    python -m ledger consistency OLD NEW --vkey K    whether NEW continues OLD (a folder, or a checkpoint kept since)
    python -m ledger prove DIR INDEX                 one leaf's proof as a text of its own
    python -m ledger check-proof FILE --vkey K       what such a text, a disclosure or a certificate proves
    python -m ledger certificate DIR RUN --vkey K    what a run did, as a certificate (JSON; --html for a page)

K is the verifier key, `<name>+<id>+<base64>`, or `@FILE` that holds it. Get it another way than with the log.
Exit codes: 0 ok, 1 unreadable or wrong usage, 3 invalid, 4 diverged, 5 rule broken, 6 incomplete.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from .audit import certify_run, check_proof_file, load_key, prove_leaf
from .certificate import dumps
from .certificate_page import run_page
from .consistency import check_consistency
from .note import NoteError
from .replay import replay_directory
from .report import Report, Verdict
from .verify import verify_directory

_NAME = "python -m ledger"
_LOG = "folder of an exported log: the one that holds its checkpoint"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(Verdict.UNREADABLE, f"{self.prog}: {message}\n")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = _Parser(prog=_NAME, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(dest="command", required=True)
    for name in ("verify", "replay"):
        command = commands.add_parser(name)
        command.add_argument("dir", metavar="DIR", type=Path, help=_LOG)
        command.add_argument("--jobs", type=int, default=None, help="processes; default one per core for large logs")
    command = commands.add_parser("consistency")
    command.add_argument("old", metavar="OLD", type=Path, help=f"{_LOG}, or a checkpoint that was kept")
    command.add_argument("new", metavar="NEW", type=Path, help="the same, exported later")
    command.add_argument("--old-vkey", default=None, help="the key of the old state, when it was rotated since")
    command = commands.add_parser("check-proof")
    command.add_argument("file", metavar="FILE", type=Path, help="a proof, a disclosure or a certificate")
    command = commands.add_parser("certificate")
    command.add_argument("dir", metavar="DIR", type=Path, help=_LOG)
    command.add_argument("run", metavar="RUN", help="the run's id")
    command.add_argument("--html", action="store_true", help="a page to be printed")
    for command in commands.choices.values():
        command.add_argument("--vkey", required=True, help="verifier key, or @FILE")
        command.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    command = commands.add_parser("prove")
    command.add_argument("dir", metavar="DIR", type=Path, help=_LOG)
    command.add_argument("index", metavar="INDEX", type=int, help="which leaf; the first one is 0")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    options = parser().parse_args(arguments)
    report: Report
    if options.command == "prove":
        proof, report = prove_leaf(options.dir, options.index)
        if proof is None:
            sys.stderr.write(report.headline + "\n")
        else:
            sys.stdout.write(proof)
        return report.verdict
    try:
        key = load_key(options.vkey)
        old_key = load_key(options.old_vkey) if getattr(options, "old_vkey", None) else None
    except NoteError as error:
        sys.stderr.write(f"{_NAME}: --vkey: {error}\n")
        return Verdict.UNREADABLE
    if options.command == "certificate":
        certificate, report = certify_run(options.dir, options.run, key)
        if certificate is None:
            sys.stderr.write(report.headline + "\n")
        else:
            sys.stdout.write(run_page(certificate) if options.html else dumps(certificate))
        return report.verdict
    match options.command:
        case "verify":
            report = verify_directory(options.dir, key, options.jobs)
        case "replay":
            report = replay_directory(options.dir, key, options.jobs)
        case "consistency":
            report = check_consistency(options.old, options.new, key, old_key)
        case _:
            report = check_proof_file(options.file, key)
    sys.stdout.write((report.to_json() if options.json else "\n".join(report.lines())) + "\n")
    return report.verdict


if __name__ == "__main__":
    sys.exit(main())
