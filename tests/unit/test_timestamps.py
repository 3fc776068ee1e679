"""Time-stamps: what an answer of an authority shows, and what is none."""

from __future__ import annotations

import subprocess
from hashlib import sha256
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mailgate import timestamps
from mailgate.cli import audit
from mailgate.clock import DAY, system_clock
from mailgate.timestamps import TimestampError, load_roots
from retention.ledger.export import DirectoryExport
from retention.ledger.note import Signer
from retention.ledger.replay import replay_directory
from retention.ledger.report import Verdict
from retention.ledger.stamp import MAX_STAMP, StampError, check_imprint
from retention.ledger.verify import verify_directory
from tests.ledger_samples import every_type, purge_run
from tests.timestamping import Authority, make_authority
from tests.unit.ledger.conftest import SIGNER, sign

DATA = b"a signed checkpoint"
KEY = SIGNER.verifier
LEAVES = [*every_type()]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("tsa"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Another one with the same names."""
    return make_authority(tmp_path_factory.mktemp("other"))


def test_an_answer_shows_when_and_who(authority: Authority) -> None:
    query = timestamps.query(DATA)
    answer = authority.answer(query.body)
    for roots in ([], load_roots(authority.root)):
        stamp = timestamps.check(answer, DATA, roots, nonce=query.nonce)
        assert stamp.authority == "CN=Test time"
        assert abs(stamp.at - system_clock()) < DAY


def test_what_is_no_stamp_on_these_bytes(authority: Authority, other: Authority) -> None:
    query = timestamps.query(DATA)
    answer = authority.answer(query.body)
    roots = load_roots(authority.root)
    with pytest.raises(TimestampError, match="other bytes"):
        timestamps.check(answer, DATA + b".", roots)
    with pytest.raises(TimestampError, match="another query"):
        timestamps.check(answer, DATA, roots, nonce=query.nonce + 1)
    with pytest.raises(TimestampError, match="does not verify"):
        timestamps.check(other.answer(query.body), DATA, roots)  # its own root comes with it, and is not believed
    with pytest.raises(TimestampError, match="refused"):
        timestamps.check(authority.answer(b"\x30\x00"), DATA, roots)
    for odd in (b"", b"<html>", answer[:-1], answer[:100]):
        with pytest.raises(TimestampError, match="no answer of a time-stamping authority"):
            timestamps.check(odd, DATA, roots)
    for at in range(len(answer) - 200, len(answer), 20):  # the signature
        with pytest.raises(TimestampError):
            timestamps.check(answer[:at] + bytes([answer[at] ^ 1]) + answer[at + 1 :], DATA, roots)


def exported(path: Path, authority: Authority, stamped: bytes) -> Path:
    with DirectoryExport(path, KEY) as export:
        export.add(LEAVES)
        export.finish(sign(LEAVES), (stamped, authority.answer(timestamps.query(stamped).body)))
    return path


@pytest.mark.parametrize(("ahead", "verdict"), [(0, Verdict.OK), (30 * DAY, Verdict.RULE_BROKEN)])
def test_a_log_that_tells_of_a_time_after_its_stamp(
    tmp_path: Path, authority: Authority, ahead: int, verdict: Verdict
) -> None:
    """What purged next month can't have been stamped today."""
    leaves = [*purge_run(3, at=system_clock() + ahead)]
    with DirectoryExport(tmp_path / "log", KEY) as export:
        export.add(leaves)
        checkpoint = sign(leaves)
        export.finish(checkpoint, (checkpoint, authority.answer(timestamps.query(checkpoint).body)))
    assert verify_directory(tmp_path / "log", KEY).verdict is Verdict.OK
    report = replay_directory(tmp_path / "log", KEY)
    assert report.verdict is verdict, report.lines()


def run(path: Path, roots: Path) -> tuple[int, str]:
    arguments = ["verify", str(path), "--vkey", KEY.vkey, "--tsa-ca", str(roots)]
    result = CliRunner().invoke(audit.audit_app, arguments)
    return result.exit_code, result.output


@pytest.mark.parametrize("size", [len(LEAVES), 10])
def test_an_export_with_a_stamp_is_verified(authority: Authority, other: Authority, tmp_path: Path, size: int) -> None:
    """Of the exported state, or of an older one: what was signed last may not be stamped yet."""
    path = exported(tmp_path / "log", authority, sign(LEAVES[:size]))
    assert verify_directory(path, KEY).facts["stamped_size"] == size
    code, said = run(path, authority.root)
    assert code == 0, said
    assert "stamped by: CN=Test time" in said
    assert run(path, other.root)[0] == 3
    command = ["openssl", "ts", "-verify", "-in", "stamped/checkpoint.tsr", "-data", "stamped/checkpoint", "-CAfile"]
    told = subprocess.run([*command, authority.root], cwd=path, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr


def test_a_stamp_on_a_state_that_is_not_this_logs(authority: Authority, tmp_path: Path) -> None:
    fork = [*every_type(first=50)][:10]
    path = exported(tmp_path / "fork", authority, sign(fork))
    assert verify_directory(path, KEY).verdict is Verdict.DIVERGED
    longer = exported(tmp_path / "longer", authority, sign([*LEAVES, LEAVES[-1]]))
    assert verify_directory(longer, KEY).verdict is Verdict.DIVERGED
    stranger = exported(tmp_path / "stranger", authority, sign(LEAVES, Signer(SIGNER.name, bytes(32))))
    assert verify_directory(stranger, KEY).verdict is Verdict.INVALID


def test_a_stamp_that_is_missing_or_of_other_bytes(authority: Authority, tmp_path: Path) -> None:
    path = exported(tmp_path / "log", authority, sign(LEAVES))
    (path / "SHA256SUMS").unlink()
    (path / "stamped/checkpoint.tsr").write_bytes(authority.answer(timestamps.query(b"else").body))
    assert run(path, authority.root)[0] == 3
    (path / "stamped/checkpoint.tsr").unlink()
    assert run(path, authority.root)[0] == 6
    (tmp_path / "nothing.pem").write_text("")
    whole = exported(tmp_path / "whole", authority, sign(LEAVES))
    assert run(whole, tmp_path / "nothing.pem")[0] == 1


def test_without_roots_a_stamp_is_examined_as_far_as_that_goes(authority: Authority, tmp_path: Path) -> None:
    """An edited stamp does not pass, and nobody takes the authority for examined."""
    path = exported(tmp_path / "log", authority, sign(LEAVES))
    facts = verify_directory(path, KEY).facts
    assert str(facts["stamp_says"]).endswith("Z")
    assert "not examined" in str(facts["stamp_authority"])
    file = path / "stamped/checkpoint.tsr"
    whole = file.read_bytes()
    imprint, time = whole.index(sha256(sign(LEAVES)).digest()), whole.index(b"\x18\x0f") + 9
    for at in (0, 4, 8, imprint, time, len(whole) - 200, len(whole) - 1):  # the last ones are the signature
        edited = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        with pytest.raises(StampError):
            check_imprint(edited, sign(LEAVES))
    for odd in (b"", b"\x30\x00", whole[:-1], whole + b"\x00", bytes(MAX_STAMP + 1), b"\x30\x80" + whole):
        with pytest.raises(StampError):
            check_imprint(odd, sign(LEAVES))
    (path / "SHA256SUMS").unlink()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert verify_directory(path, KEY).verdict is Verdict.INVALID
    file.write_bytes(authority.answer(timestamps.query(b"else").body))
    assert "other bytes" in verify_directory(path, KEY).headline
    file.write_bytes(authority.answer(b"\x30\x00"))
    assert "refused" in verify_directory(path, KEY).headline
    file.unlink()
    assert verify_directory(path, KEY).verdict is Verdict.INCOMPLETE
