"""`mailgate audit` on folders: the same verdicts and exit codes as the stand-alone command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from mailgate.cli import audit
from retention.ledger.audit import check_proof_file
from retention.ledger.replay import replay_directory
from retention.ledger.report import Findings, Report, Verdict
from retention.ledger.verify import verify_directory
from tests.ledger_samples import ulid
from tests.unit.ledger.conftest import SIGNER, Exporter, sign

VKEY = SIGNER.verifier.vkey


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(audit.audit_app, list(map(str, arguments)))
    return result.exit_code, result.output


def test_verdicts_and_exit_codes(exported: Exporter, leaves: list[bytes], tmp_path: Path) -> None:
    path = exported(leaves)
    code, said = run("verify", path, "--vkey", VKEY)
    assert (code, said.split("\n")[0][:14]) == (0, "ok: 600 leaves")
    assert run("replay", path, "--vkey", VKEY)[0] == 0
    code, said = run("verify", path, "--vkey", VKEY, "--json", "--jobs", 1)
    assert (code, json.loads(said)["leaves"]["item.purge"]) == (0, 571)
    (tmp_path / "old").write_bytes(sign(leaves[1:300]))
    assert run("consistency", tmp_path / "old", path, "--vkey", VKEY)[0] == 4
    (tmp_path / "old").write_bytes(sign(leaves[:300]))
    assert run("consistency", tmp_path / "old", path, "--vkey", VKEY)[0] == 0
    assert run("verify", tmp_path / "nothing", "--vkey", VKEY)[0] == 1
    (path / "tile/0/000").unlink()
    assert run("verify", path, "--vkey", VKEY)[0] == 6


def test_a_proof_there_and_back(exported: Exporter, leaves: list[bytes], tmp_path: Path) -> None:
    path = exported(leaves)
    file = tmp_path / "leaf.tlog-proof"
    assert run("prove", path, 40, "--out", file) == (0, "")
    assert run("prove", path, 40) == (0, file.read_text())
    code, said = run("check-proof", file, "--vkey", VKEY)
    assert code == 0
    assert "leaf 40 is in the log" in said
    file.write_text(file.read_text().replace("index 40", "index 41"))
    assert run("check-proof", file, "--vkey", VKEY)[0] == 3
    assert run("prove", path, 600)[0] == 1


def test_what_can_not_be_read_or_written_is_said_in_a_line(exported: Exporter, leaves: list[bytes]) -> None:
    path, nowhere, long = exported(leaves), "/nonexistent/x", "x" * 5_000
    for arguments in (
        ("prove", path, 40, "--out", nowhere),
        ("certificate", path, ulid(900_000), "--vkey", VKEY, "--out", nowhere),
        ("verify", long, "--vkey", VKEY),
        ("consistency", long, path, "--vkey", VKEY),
        ("check-proof", long, "--vkey", VKEY),
    ):
        code, said = run(*arguments)
        assert (code, said.startswith("unreadable: ")) == (1, True), (arguments[0], said[:200])


def test_a_certificate_as_text_json_and_page(exported: Exporter, leaves: list[bytes], tmp_path: Path) -> None:
    path, id_ = exported(leaves), ulid(900_000)
    code, said = run("certificate", path, id_, "--vkey", VKEY)
    assert (code, said.split("\n")[0]) == (0, f"ok: run {id_} of a log that verifies")
    assert '"purged": 2' in said
    code, said = run("certificate", path, id_, "--vkey", VKEY, "--json")
    assert (code, json.loads(said)["run"]["id"]) == (0, id_)
    assert run("certificate", path, id_, "--vkey", VKEY, "--html")[1].startswith("<!doctype html>")
    assert run("certificate", path, id_, "--vkey", VKEY, "--out", tmp_path / "page.html") == (0, "")
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    run("certificate", path, id_, "--vkey", VKEY, "--out", tmp_path / "c.json")
    code, said = run("check-proof", tmp_path / "c.json", "--vkey", VKEY)
    assert (code, "nobody signed the certificate" in said) == (Verdict.INCOMPLETE, True)  # no auditor has the key
    assert run("certificate", path, ulid(1), "--vkey", VKEY)[0] == 6


@pytest.mark.parametrize("arguments", [["verify"], ["verify", "x"], ["verify", "x", "--vkey", "y"], ["nothing"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    assert run(*arguments)[0] == 2


def test_on_a_terminal(exported: Exporter, leaves: list[bytes]) -> None:
    path = exported(leaves)
    (path / "odd\x1b[2J").write_bytes(b"")
    console = Console(force_terminal=True, width=200, record=True, color_system=None)
    with console.capture() as captured:
        audit._show(console, verify_directory(path, SIGNER.verifier))
    said = captured.get()
    assert said.startswith("✘ invalid: odd")
    assert "571  item.purge" in said
    assert "\x1b[2J" not in said


def on_screen(report: Report, width: int = 80) -> list[str]:
    console = Console(force_terminal=True, width=width, color_system=None)
    with console.capture() as captured:
        audit._show(console, report)
    return captured.get().splitlines()


def test_a_narrow_terminal_cuts_no_hash_and_folds_sentences_under_themselves(
    exported: Exporter, leaves: list[bytes], tmp_path: Path
) -> None:
    path, file = exported(leaves), tmp_path / "leaf"
    run("prove", path, 13, "--out", file)
    report = check_proof_file(file, SIGNER.verifier)
    lines = on_screen(report)
    for hash_ in (
        report.facts["root"],
        report.facts["leaf"]["content_commit"],
        report.facts["leaf"]["policy"]["sha256"],
    ):
        assert any(hash_ in line for line in lines), hash_
    found = Findings()
    found.add(Verdict.INVALID, " ".join(["word"] * 30))
    found.add(Verdict.INVALID, "x" * 100)
    lines += (told := on_screen(Report("", found)))
    assert [line[:4] for line in told] == ["✘ in", "  wo", "  wo", "  - ", "    ", "    ", "  - ", "    ", "    "]
    assert max(map(len, lines)) <= 80
    assert [line for line in lines if line != line.rstrip()] == []
    assert max(map(len, on_screen(report, 20))) <= 20


def test_what_is_piped_is_neither_folded_nor_coloured(
    exported: Exporter, leaves: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = exported(leaves)
    plain = run("replay", path, "--vkey", VKEY)[1]
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    assert run("replay", path, "--vkey", VKEY)[1] == plain
    assert plain.splitlines() == replay_directory(path, SIGNER.verifier).lines()
