"""`mailgate audit`: what an auditor asks of an exported purge log. The same as `python -m ledger`, nicer to read.

Nothing here opens the gateway's database or settings: the log in the folder and the key are all that is believed.
Exit codes: 0 ok, 1 unreadable, 2 wrong usage, 3 invalid, 4 diverged, 5 rule broken, 6 incomplete.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from mailgate.clock import to_rfc3339
from mailgate.timestamps import MAX_REPLY, TimestampError, load_roots
from mailgate.timestamps import check as check_stamp
from retention.ledger.audit import certify_run, check_proof_file, load_key, prove_leaf
from retention.ledger.certificate import dumps
from retention.ledger.certificate_page import run_page
from retention.ledger.consistency import check_consistency
from retention.ledger.directory import STAMP, STAMPED, LogDirectory, NotRegularError
from retention.ledger.note import NoteError, Verifier
from retention.ledger.replay import replay_directory
from retention.ledger.report import Findings, Report, Verdict, shown
from retention.ledger.verify import verify_directory

audit_app = typer.Typer(
    help="Check an exported purge log, offline. Exit codes: 0 ok, 1 unreadable, 2 wrong usage, 3 invalid, "
    "4 diverged, 5 rule broken, 6 incomplete.",
    no_args_is_help=True,
)

_BELOW = 4
"""How far in a fact stands that has no room beside its name."""


def _key(text: str) -> Verifier:
    try:
        return load_key(text)
    except NoteError as error:
        raise typer.BadParameter(str(error)) from None


Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of an exported log.")]
Key = Annotated[
    Verifier,
    typer.Option("--vkey", metavar="K", parser=_key, help="The log's verifier key, or @FILE. Get it another way too."),
]
OldKey = Annotated[
    Verifier | None,
    typer.Option("--old-vkey", metavar="K", parser=_key, help="Key of the old state, when it was rotated since."),
]
Jobs = Annotated[int | None, typer.Option(min=1, help="Processes; by default one per core for large logs.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")]


@audit_app.command()
def verify(
    folder: Folder,
    vkey: Key,
    jobs: Jobs = None,
    tsa_ca: Annotated[
        Path | None,
        typer.Option(
            metavar="PEM",
            exists=True,
            dir_okay=False,
            help="Root certificates of the time-stamping authority: also verify the stamp in the folder.",
        ),
    ] = None,
    *,
    json: Json = False,
) -> None:
    """Hash everything again: is this exactly the log that the key signed?"""
    report = verify_directory(folder, vkey, jobs)
    if tsa_ca is not None and report.verdict is Verdict.OK:
        report = _with_stamp(folder, report, tsa_ca)
    _end(report, json=json)


def _with_stamp(folder: Path, report: Report, tsa_ca: Path) -> Report:
    """The report, and what the time-stamp in the folder shows."""
    facts: dict[str, Any] = {}
    try:
        roots = load_roots(tsa_ca)
        directory = LogDirectory(folder)
        stamp = check_stamp(directory.read(STAMP, MAX_REPLY), directory.read(STAMPED), roots)
        facts = {"stamped_at": to_rfc3339(stamp.at), "stamped_by": stamp.authority}
    except FileNotFoundError:
        report.findings.add(Verdict.INCOMPLETE, "there is no time-stamp in the folder")
    except (TimestampError, NotRegularError) as error:
        report.findings.add(Verdict.INVALID, f"{STAMP}: {error}")
    except (OSError, ValueError) as error:
        report.findings.add(Verdict.UNREADABLE, f"{tsa_ca}: {error}")
    told = {name: fact for name, fact in report.facts.items() if name not in ("stamp_says", "stamp_authority")}
    return Report(report.subject, report.findings, told | facts)


@audit_app.command()
def replay(folder: Folder, vkey: Key, jobs: Jobs = None, *, json: Json = False) -> None:
    """Verify, then prove from the log alone that nothing pinned or held was purged, and nothing early."""
    _end(replay_directory(folder, vkey, jobs), json=json)


@audit_app.command()
def consistency(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="An older export, or a checkpoint file kept since.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Folder of the newer export.")],
    vkey: Key,
    old_vkey: OldKey = None,
    *,
    json: Json = False,
) -> None:
    """Does the newer log begin with the older one, or was history rewritten?"""
    _end(check_consistency(old, new, vkey, old_vkey), json=json)


@audit_app.command()
def prove(
    folder: Folder,
    index: Annotated[int, typer.Argument(min=0, metavar="INDEX", help="The leaf's index, from 0.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write to a file.", dir_okay=False)] = None,
) -> None:
    """Cut one leaf out with its proof: a small text that stands alone (c2sp.org/tlog-proof)."""
    proof, report = prove_leaf(folder, index)
    if proof is None:
        _end(report, json=False)
    elif out is None:
        typer.echo(proof, nl=False)
    else:
        _write(out, proof)


@audit_app.command()
def certificate(
    folder: Folder,
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")],
    vkey: Key,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write to a file; a page if it ends in .html.", dir_okay=False),
    ] = None,
    *,
    html: Annotated[bool, typer.Option("--html", help="A page to be printed.")] = False,
    json: Json = False,
) -> None:
    """What a run did, as a certificate: built from the log alone, after it was verified."""
    built, report = certify_run(folder, run, vkey)
    if built is None:
        _end(report, json=json)
        return
    text = run_page(built) if html or (out is not None and out.suffix == ".html") else dumps(built)
    if out is not None:
        _write(out, text)
    elif html or json:
        typer.echo(text, nl=False)
    else:
        shown = {name: built[name] for name in ("run", "actor", "policy", "tool", "counts", "items", "objects")}
        _end(Report(report.subject, report.findings, shown), json=False)


@audit_app.command("check-proof")
def check_proof(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `prove`, `disclose` or the gateway wrote.")],
    vkey: Key,
    *,
    json: Json = False,
) -> None:
    """What does a proof, a disclosure or a certificate prove?"""
    _end(check_proof_file(file, vkey), json=json)


def _write(out: Path, text: str) -> None:
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        found = Findings()
        found.add(Verdict.UNREADABLE, f"{out} can't be written: {error.strerror}")
        _end(Report("", found), json=False)


def _end(report: Report, *, json: bool) -> None:
    """Show a report and leave with its exit code."""
    if json:
        typer.echo(report.to_json())
    elif sys.stdout.isatty():
        _show(Console(highlight=False), report)
    else:  # whatever the environment asks of colours: a line is a line
        typer.echo("\n".join(report.lines()))
    raise typer.Exit(int(report.verdict))


def _show(console: Console, report: Report) -> None:
    lines = report.lines()
    good = report.verdict is Verdict.OK
    _line(console, "✔ " if good else "✘ ", lines[0], "bold green" if good else "bold red")
    rows = [row for name, value in report.facts.items() for row in _rows(name.replace("_", " "), value)]
    rows = [(_printable(name), _printable(value)) for name, value in rows]
    column = min(max((cell_len(name) for name, _ in rows), default=0), console.width // 2) + 2
    for name, value in rows:
        _row(console, name, value, column)
    for line in lines[1 + len(report.facts) :]:
        text = line.lstrip(" -")
        _line(console, line.removesuffix(text), text, "yellow")


def _line(console: Console, first: str, text: str, style: str) -> None:
    """A sentence, folded under its own beginning."""
    for at, part in enumerate(_folded(console, text, cell_len(first))):
        console.print(Text((" " * cell_len(first) if at else first) + part, style=style))


def _row(console: Console, name: str, value: str, column: int) -> None:
    """A fact beside its name; below it where it would not fit without cutting a hash or an id in two."""
    longest = max(map(cell_len, value.split()), default=0)
    beside = cell_len(name) + 2 <= column and column + longest <= console.width
    indent = column if beside else _BELOW
    if not beside:
        console.print(Text(name, style="dim"))
    for at, part in enumerate(_folded(console, value, indent) if value else [""]):
        shown_name = name if beside and at == 0 else ""
        space = " " * (indent - cell_len(shown_name)) if part else ""
        console.print(Text.assemble((shown_name, "dim"), space, part))


def _folded(console: Console, text: str, indent: int) -> list[str]:
    width = max(console.width - indent, 1)
    return [line.plain.rstrip() for line in Text(text).wrap(console, width, overflow="fold")]


def _rows(name: str, fact: Any) -> Iterator[tuple[str, str]]:
    """A fact as lines of a table: counts right-aligned under their name, what is deeper one field a line."""
    if not isinstance(fact, dict):
        yield name, f"{fact:,}" if isinstance(fact, int) and not isinstance(fact, bool) else shown(fact)
    elif not fact:
        yield name, "none"
    elif all(isinstance(part, int) for part in fact.values()):
        for at, (part, count) in enumerate(fact.items()):
            yield name if at == 0 else "", f"{count:>12,}  {part}"
    else:
        yield name, ""
        for part, value in fact.items():
            yield f"  {part}", _one_line(value)


def _one_line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{part} {inner}" for part, inner in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(_one_line, value)) or "none"
    return str(value)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
