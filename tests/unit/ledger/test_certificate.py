"""The certificate of a run: from the leaves alone, checked with two proofs, built again by who has the log."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from retention.ledger import leaves as ledger
from retention.ledger.audit import certify_run, check_proof_file
from retention.ledger.canonical import encode
from retention.ledger.certificate import check_certificate, dumps, sign_certificate
from retention.ledger.certificate_page import GENERATOR, POLICY, STYLE, page, run_page, sign_page
from retention.ledger.directory import LogDirectory
from retention.ledger.export import DirectoryExport
from retention.ledger.note import Signer, parse_note, sign_note
from retention.ledger.report import Verdict
from retention.ledger.schema import LeafError
from retention.ledger.tree import ProofError
from retention.ledger.verify import verify_directory
from tests.ledger_samples import NOW, ORIGIN, common, every_type, purge_fields, ulid
from tests.unit.ledger.conftest import SIGNER, Exporter, sign

KEY = SIGNER.verifier
RUN = ulid(900_000)
ABORTED = ulid(910_000)


@pytest.fixture
def told(exported: Exporter, leaves: list[bytes]) -> dict[str, Any]:
    """The certificate of the run among the samples: two purged, one pinned, one held."""
    certificate, report = certify_run(exported(leaves), RUN, KEY)
    assert certificate is not None, report.lines()
    return certificate


def test_it_says_what_when_who_how_and_under_which_rules(told: dict[str, Any]) -> None:
    assert told["counts"] == {"candidates": 4, "purged": 2, "kept": {"held": 1, "pinned": 1}, "failed": 0}
    assert told["run"]["outcome"] == "completed"
    assert told["actor"] == {"kind": "scheduler", "ref": "purge"}
    assert told["approved"] == ["clock"]
    assert told["tool"] == {"name": "mailgate", "version": "0.1.0", "commit": "0123abcd"}
    assert told["policy"]["ver"] == 1
    assert told["sanitization"]["description"] == "Purge"
    assert [one["items"] for one in told["sanitization"]["methods"]] == [2]
    assert told["items"]["by_reason"] == {"age": 2}
    assert told["items"]["by_plan"] == {"standard, 60 days": 2}
    assert told["items"]["deferred"] == {"held": 1, "pinned": 1}
    objects = told["objects"]
    assert (objects["freed"], objects["erased"], objects["failed_attempts"], objects["outstanding"]) == (2, 1, 1, 1)
    assert told["evidence"]["size"] == 600
    encode(told)  # nothing in it that canonical JSON has not


def test_a_run_that_was_aborted_and_one_that_never_was(exported: Exporter, leaves: list[bytes]) -> None:
    path = exported(leaves)
    aborted, _ = certify_run(path, ABORTED, KEY)
    assert aborted is not None
    assert (aborted["run"]["outcome"], aborted["run"]["reason"]) == ("aborted", "cut")
    nothing, report = certify_run(path, ulid(1), KEY)
    assert (nothing, report.verdict) == (None, Verdict.INCOMPLETE)
    (path / "tile/0/000").unlink()
    assert certify_run(path, RUN, KEY)[0] is None


def test_it_is_checked_with_nothing_but_the_key(told: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "certificate.json"
    signed = sign_certificate(told, SIGNER)
    file.write_text(dumps(signed))
    report = check_proof_file(file, KEY)
    assert report.verdict is Verdict.OK, report.lines()
    assert "candidates 4, purged 2, failed 0" in report.facts["runs"][RUN]
    file.write_text(json.dumps({"run_id": RUN, "certificates": [signed, signed]}))  # as the gateway answers
    assert check_proof_file(file, KEY).headline.startswith("ok: 2 certified runs")
    file.write_text(json.dumps({"certificates": []}))
    assert check_proof_file(file, KEY).verdict is Verdict.INCOMPLETE
    thief = Signer(ORIGIN, bytes(32))
    file.write_text(dumps(signed))
    assert check_proof_file(file, thief.verifier).verdict is Verdict.INVALID
    file.write_text(dumps(sign_certificate(told, thief)))
    assert check_proof_file(file, KEY).verdict is Verdict.INVALID


def places(value: Any, *path: str | int) -> Iterator[tuple[str | int, ...]]:
    """Where every single value of a JSON document stands."""
    inside: Iterable[tuple[str | int, Any]] = ()
    if isinstance(value, dict):
        inside = value.items()
    elif isinstance(value, list):
        inside = enumerate(value)
    else:
        yield path
    for name, part in inside:
        yield from places(part, *path, name)


def edits(told: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every single value changed, every member left out, and one more put in everywhere."""
    for path in places(told):
        for how in ("change", "drop", "add"):
            edited = copy.deepcopy(told)
            part: Any = edited
            for name in path[:-1]:
                part = part[name]
            if how == "change":
                value = part[path[-1]]
                part[path[-1]] = value + 1 if isinstance(value, int) else f"{value}x"
            elif how == "drop":
                del part[path[-1]]
            elif isinstance(part, dict):
                part["also"] = "approved by the auditors"
            yield edited


def test_every_change_to_a_signed_certificate_shows_without_the_log(told: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "certificate.json"
    signed = sign_certificate(told, SIGNER)
    for edited in edits(signed):
        file.write_text(dumps(edited))
        verdict = check_proof_file(file, KEY).verdict
        assert verdict is (Verdict.INVALID if "signed" in edited else Verdict.INCOMPLETE) or edited == signed, edited
    for told_twice in (
        '{"objects": {"erased": 9},' + dumps(signed)[1:],  # a reader might believe the first
        dumps(signed).replace('"failed": 0', '"failed": 0.0'),
        '{"kind": "purge certificate", "v": 1, "signed": "", "x":' + "[" * 5_000 + "]" * 5_000 + "}",
    ):
        file.write_text(told_twice)
        assert check_proof_file(file, KEY).verdict is Verdict.INVALID


def test_without_a_signature_it_says_what_is_not_proven(told: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "certificate.json"
    told["objects"]["erased"] += 1  # nothing but the log could tell
    file.write_text(dumps(told))
    report = check_proof_file(file, KEY)
    assert report.verdict is Verdict.INCOMPLETE
    assert "nobody signed the certificate" in report.headline


def test_a_signed_page_is_checked_with_the_key(told: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "certificate.html"
    made = sign_page(run_page(told), SIGNER)
    file.write_text(made)
    assert check_proof_file(file, KEY).verdict is Verdict.OK
    for forged in (
        made.replace("2 copies purged", "1 copies purged"),
        f"{made}<p>approved",
        made.replace("</html>", ""),
    ):
        assert forged != made
        file.write_text(forged)
        assert check_proof_file(file, KEY).verdict is Verdict.INVALID
    file.write_text(run_page(told))
    assert check_proof_file(file, KEY).verdict is Verdict.INCOMPLETE


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("counts", "purged"), 1),
        (("counts", "kept"), {"held": 2}),
        (("counts", "failed"), 1),
        (("run", "id"), ulid(5)),
        (("run", "ended_at"), "2026-01-02T03:00:00.000001Z"),
        (("run", "judged_by"), "2026-01-02T03:00:00.000001Z"),
        (("actor",), {"kind": "token", "ref": "x"}),
        (("approved",), []),
        (("policy",), {"ver": 2, "sha256": "0" * 64}),
        (("log", "tenant_ref"), "t-other"),
        (("items", "by_reason"), {"age": 3}),
        (("items", "by_plan"), {"standard, 60 days": 3}),
        (("sanitization", "methods"), [{"method": "key_destroyed", "technique": "x", "items": 3}]),
        (("run", "outcome"), "aborted"),
        (("run", "reason"), "cut"),
        (("run", "trigger"), "api"),
        (("log", "vkey"), Signer(ORIGIN, bytes(32)).verifier.vkey),
        (("tool", "commit"), "deadbeef"),
        (("evidence", "size"), 601),
        (("evidence", "root"), "0" * 64),
        (("evidence", "opened", "index"), 0),
        (("evidence", "ended", "index"), 0),
        (("verify", "log"), "mailgate audit replay DIR --vkey 'another'"),
    ],
)
def test_what_the_leaves_do_not_say_is_refused(told: dict[str, Any], where: tuple[str, ...], value: Any) -> None:
    part = told
    for name in where[:-1]:
        part = part[name]
    part[where[-1]] = value
    with pytest.raises(LeafError):
        check_certificate(told, KEY)


@pytest.mark.parametrize("odd", [None, [], {}, {"v": 2}, {"v": 1, "evidence": {}}, {"v": 1, "evidence": 7}])
def test_other_values_are_no_certificates(odd: Any) -> None:
    with pytest.raises(ProofError):
        check_certificate(odd, KEY)


@pytest.mark.parametrize("where", ["proof", "checkpoint"])
def test_half_a_surrogate_pair_is_refused_in_words(told: dict[str, Any], tmp_path: Path, where: str) -> None:
    part = told["evidence"]["ended"] if where == "proof" else told["evidence"]
    part[where] += "\ud800"
    file = tmp_path / "certificate.json"
    file.write_text(json.dumps(told))
    assert check_proof_file(file, KEY).verdict is Verdict.INVALID
    file.write_text(json.dumps({"items": [{"proof": told["evidence"]["opened"]["proof"] + "\ud800"}]}))
    assert check_proof_file(file, KEY).verdict is Verdict.INVALID


def test_evidence_of_two_states_is_refused(exported: Exporter, leaves: list[bytes], told: dict[str, Any]) -> None:
    shorter, _ = certify_run(exported(leaves[:500], "shorter"), RUN, KEY)
    assert shorter is not None
    told["evidence"]["opened"] = shorter["evidence"]["opened"]
    with pytest.raises(LeafError):
        check_certificate(told, KEY)


def test_proofs_of_another_run_do_not_pass(exported: Exporter, leaves: list[bytes], told: dict[str, Any]) -> None:
    other, _ = certify_run(exported(leaves, "again"), ABORTED, KEY)
    assert other is not None
    told["evidence"]["ended"] = other["evidence"]["ended"]
    with pytest.raises(LeafError):
        check_certificate(told, KEY)


class _Outside(HTMLParser):
    """What a page would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"script", "img", "link", "iframe", "object", "embed", "form", "a"}:
            self.found.append(tag)
        self.found += [name for name, _ in attrs if name in {"src", "href", "style"} or name.startswith("on")]


def test_the_page_needs_nothing_from_anywhere_and_escapes_everything(told: dict[str, Any]) -> None:
    evil = "<script>alert('&\"')</script>"
    told["actor"] = {"kind": evil, "ref": evil}
    told["items"]["by_plan"] = {evil: 2}
    told["counts"]["kept"] = {evil: 1}
    told["evidence"]["checkpoint"] = evil
    told["policy"]["sha256"] = evil
    made = page([told, told], evil)
    outside = _Outside()
    outside.feed(made)
    assert outside.found == []
    assert "<script" not in made
    assert "url(" not in made
    assert "@import" not in made
    assert made.count("<section>") == 2
    assert re.search(r"sha256-[A-Za-z0-9+/]{43}=", POLICY)
    assert f"<style>{STYLE}</style>" in made


def test_an_export_has_them_and_verify_builds_them_again(leaves: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "log"
    with DirectoryExport(path, KEY, certifier=SIGNER) as export:
        export.add(leaves)
        export.finish(sign(leaves))
    names = {name for name in LogDirectory(path).names() if name.startswith("certificates/")}
    assert len(names) == 6  # of three runs, each for programs and for people
    report = verify_directory(path, KEY)
    assert (report.verdict, report.facts["certificates"]) == (Verdict.OK, 3)
    assert "certificates/" in (path / "SHA256SUMS").read_text()
    (path / "SHA256SUMS").unlink()
    file = path / f"certificates/{RUN}.json"
    good = file.read_text()
    file.unlink()
    less = verify_directory(path, KEY).facts
    assert (less["certificates"], less["runs_without_certificate"]) == (2, 1)
    thief = Signer(ORIGIN, bytes(32)).verifier.vkey
    for forged in (
        good.replace('"purged": 2', '"purged": 1'),
        good.replace('"erased": 1', '"erased": 2'),
        good.replace('"items": 2', '"items": 3'),  # by the method of sanitization
        good.replace(f"--vkey '{KEY.vkey}'", f"--vkey '{thief}'"),  # what the reader is to verify by
        good.replace('"standard":', '"norm":'),
        "{}",
        "x",
    ):
        assert forged != good
        file.write_text(forged)
        assert verify_directory(path, KEY).verdict is Verdict.INVALID, forged[:20]
    told = json.loads(good)
    del told["signed"]
    file.write_text(dumps(told))  # it is what the log says
    assert verify_directory(path, KEY).verdict is Verdict.OK
    reworded = json.loads(dumps(told).replace("800-88 Rev. 1", "800-88 Rev. 2"))
    file.write_text(dumps(sign_certificate(reworded, SIGNER)))  # as another version may put it
    assert verify_directory(path, KEY).verdict is Verdict.OK
    for unsigned in (reworded, json.loads(dumps(told).replace('"description": "Purge"', '"description": "Destroy"'))):
        file.write_text(dumps(unsigned))
        assert verify_directory(path, KEY).verdict is Verdict.INVALID
    file.write_text(good)
    shown = path / f"certificates/{RUN}.html"
    shown_before = shown.read_text().partition("<!-- signed")[0]
    shown.write_text(shown.read_text().replace("2 copies purged", "1 copies purged"))
    assert verify_directory(path, KEY).verdict is Verdict.INVALID
    shown.write_text("<p>a page that does not say by what it was made")
    assert verify_directory(path, KEY).verdict is Verdict.INVALID
    newer = shown_before.replace(GENERATOR, '<meta name="generator" content="purge certificate page 999">')
    shown.write_text(newer)
    assert verify_directory(path, KEY).verdict is Verdict.INVALID
    shown.write_text(sign_page(newer.replace(RUN, ABORTED), SIGNER))
    assert verify_directory(path, KEY).verdict is Verdict.INVALID
    shown.write_text(sign_page(newer, SIGNER))
    report = verify_directory(path, KEY)
    assert (report.verdict, report.facts["pages_of_other_versions"]) == (Verdict.OK, 1)
    shown.rename(path / f"certificates/{ulid(7)}.html")
    assert "certificates/" in verify_directory(path, KEY).headline


def test_a_witness_may_sign_the_checkpoint_as_well(leaves: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "log"
    with DirectoryExport(path, KEY, certifier=SIGNER) as export:
        export.add(leaves)
        export.finish(sign(leaves))
    (path / "SHA256SUMS").unlink()
    before, _ = certify_run(path, RUN, KEY)
    text, lines = parse_note((path / "checkpoint").read_bytes())
    witness = Signer("witness.example", bytes(range(32)))
    (path / "checkpoint").write_bytes(sign_note(text, [witness], lines))
    report = verify_directory(path, KEY)
    assert (report.verdict, report.facts["certificates"]) == (Verdict.OK, 3), report.lines()
    assert certify_run(path, RUN, KEY)[0] == before


def test_a_run_that_has_not_ended_has_none(exported: Exporter, leaves: list[bytes]) -> None:
    path = exported(leaves[:14], "open")
    assert certify_run(path, RUN, KEY)[0] is None


BRAKED = ulid(930_000)


@pytest.fixture
def braked() -> list[bytes]:
    """A log with one run that was approved: the clock, and the brake for 1 234 items."""
    bodies = [*every_type()][:2]
    approved = {"approved": ["brake", "clock"], "approved_up_to": 1_234}
    bodies.append(ledger.run_open(common(900, run=BRAKED), now=NOW, trigger="request", **approved))
    bodies.append(ledger.item_purge(common(901, run=BRAKED), **purge_fields(2)))
    counts: dict[str, Any] = {"candidates": 1, "purged": 1, "kept": {}, "failed": 0, "bytes_": 9, "copies": 1}
    return [*bodies, ledger.run_close(common(902, run=BRAKED), **counts)]


def test_it_says_of_how_many_an_approval_was(exported: Exporter, braked: list[bytes], tmp_path: Path) -> None:
    told, report = certify_run(exported(braked), BRAKED, KEY)
    assert told is not None, report.lines()
    assert (told["approved"], told["approved_up_to"]) == (["brake", "clock"], 1_234)
    assert "<td>brake (at most 1,234 copies), clock</td>" in run_page(told)
    file = tmp_path / "certificate.json"
    file.write_text(dumps(sign_certificate(told, SIGNER)))
    report = check_proof_file(file, KEY)
    assert report.facts["runs"][BRAKED].endswith("kept none, approved brake (at most 1,234 copies), clock")
    with pytest.raises(LeafError):
        check_certificate(told | {"approved_up_to": 1_235}, KEY)


def test_one_of_an_older_version_that_left_that_out_is_still_good(braked: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "log"
    with DirectoryExport(path, KEY, certifier=SIGNER) as export:
        export.add(braked)
        export.finish(sign(braked))
    (path / "SHA256SUMS").unlink()
    file, shown = (path / f"certificates/{BRAKED}.{suffix}" for suffix in ("json", "html"))
    told = json.loads(file.read_text())
    del told["signed"], told["approved_up_to"]
    older = sign_certificate(told, SIGNER)
    assert check_certificate(older, KEY).signed
    file.write_text(dumps(older))
    shown.write_text(sign_page(run_page(told).replace(GENERATOR, GENERATOR.replace("page 2", "page 1")), SIGNER))
    report = verify_directory(path, KEY)
    assert report.verdict is Verdict.OK, report.lines()
    for forged in (told, sign_certificate(told | {"approved_up_to": 9}, SIGNER)):
        file.write_text(dumps(forged))
        assert verify_directory(path, KEY).verdict is Verdict.INVALID


def test_words_that_look_like_a_run_are_text(exported: Exporter) -> None:
    """The name of a matter is free text in clear: it can't pass for a field of the leaf."""
    bodies = [*every_type()]
    named = f'"run":"{RUN}"'
    placed = ledger.hold_place(
        replace(common(77), id=ulid(77)), hold_ref="hold9", matter=named, reason_commit="0" * 64, mailbox_ref="box1"
    )
    certificate, _ = certify_run(exported([*bodies[:14], placed, *bodies[14:]]), RUN, KEY)
    assert certificate is not None
    assert certificate["counts"]["purged"] == 2
    assert run_page(certificate).startswith("<!doctype html>")
