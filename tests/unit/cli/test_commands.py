"""The commands, each as a process of its own would run it: output, JSON, exit codes, and no secret on any of them."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner, Result

from mailgate import cli
from mailgate.blobs.names import path_of
from mailgate.cli import session
from mailgate.cli.commands import app
from mailgate.errors import UnavailableError
from mailgate.keys import rotate_master
from mailgate.store.installation import CLOCK_MARK
from mailgate.store.log import PurgeLog

NOW = "2030-01-01T00:00:00Z"


class Shell:
    """Runs commands in an installation of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._runner = CliRunner()

    def __call__(self, *words: str, stdin: str | None = None, expect: int = 0, **environ: str) -> Result:
        environ = {"MAILGATE_DATA_DIR": str(self.folder / "data"), "COLUMNS": "200"} | environ
        result = self._runner.invoke(app, list(words), input=stdin, env=environ)
        assert result.exit_code == expect, (words, result.exit_code, result.output)
        return result

    def json(self, *words: str, stdin: str | None = None, expect: int = 0) -> Any:
        return json.loads(self(*words, "--json", stdin=stdin, expect=expect).stdout)


# Made once: it takes longer than most commands do.
COMMAND = typer.main.get_command(app)


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setattr("typer.testing._get_command", lambda _: COMMAND)
    monkeypatch.chdir(tmp_path)
    return Shell(tmp_path)


@functools.cache
def installed(folder: Path) -> Path:
    """An installation after `init`, with a tenant on standard, of which each test has a copy."""
    made = Shell(folder)
    made("init")
    made("tenant", "add", "acme", "--name", "Acme Ltd")
    made("tenant", "plan", "acme", "standard")
    return folder / "data"


@pytest.fixture
def shell(bare: Shell, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """After `init`, with a tenant on standard."""
    shutil.copytree(installed(tmp_path_factory.getbasetemp() / "installed"), bare.folder / "data")
    return bare


def test_init_makes_a_token_once(bare: Shell) -> None:
    first = bare.json("init")
    assert re.fullmatch(r"mg_[A-Za-z0-9_-]{43}", first["token"])
    assert bare.json("init") == first | {"token": None}
    assert first["token"] not in bare("token", "list").stdout
    assert (bare.folder / "data").stat().st_mode & 0o077 == 0


def test_with_a_token_in_the_environment_none_is_made(bare: Shell) -> None:
    result = bare("init", "--json", MAILGATE_ADMIN_TOKEN="x" * 32)
    assert json.loads(result.stdout)["token"] is None


def test_a_token_that_could_be_guessed_is_refused(bare: Shell) -> None:
    bare("init")
    result = bare("tenant", "list", expect=3, MAILGATE_ADMIN_TOKEN="admin")
    assert "at least 16 characters" in result.stderr


def test_before_init_a_command_says_what_to_do(bare: Shell) -> None:
    assert "mailgate init" in bare("tenant", "list", expect=3).stderr


def test_a_name_of_the_purge_log_stays(bare: Shell) -> None:
    bare("init", MAILGATE_LEDGER__ORIGIN="mail.acme.example")
    result = bare("tenant", "list", expect=3, MAILGATE_LEDGER__ORIGIN="other.example")
    assert "mail.acme.example" in result.stderr


def test_the_example_configuration_is_printed(bare: Shell) -> None:
    assert '#data_dir = "data"' in bare("init", "--print-config").stdout
    assert not (bare.folder / "data").exists()


def test_a_configuration_file_that_is_wrong(bare: Shell) -> None:
    (bare.folder / "m.toml").write_text("[http]\nprot = 1\n")
    result = bare("--config", "m.toml", "doctor", expect=3)
    assert result.stderr.startswith("mailgate: m.toml: there is no setting http.prot; did you mean http.port?")


def test_the_log_for_a_spreadsheet_and_for_a_program(shell: Shell) -> None:
    for format_, name in (("csv", "entries.csv"), ("ndjson", "entries.ndjson")):
        done = shell.json("audit", "export", "acme", format_, "--format", format_)
        lines = Path(format_, name).read_bytes().splitlines()
        assert done["entries"] == len(lines) - (format_ == "csv") == 2 + (format_ == "ndjson")
        subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=format_, check=True)
    assert json.loads(lines[-1])["format"] == "csv"  # that it was handed out stands in it
    assert shell.json("audit", "export", "acme", "none", "--format", "csv", "--since", NOW)["entries"] == 0
    assert "as a whole" in shell("audit", "export", "acme", "x", "--since", NOW, expect=2).stderr
    assert "not empty" in shell("audit", "export", "acme", "csv", "--format", "csv", expect=4).stderr


def test_a_folder_with_blanks_can_be_pasted_with_the_command_that_checks_it(shell: Shell) -> None:
    said = shell("audit", "export", "acme", "for the auditor").stdout
    (line,) = (line for line in said.splitlines() if line.startswith("check it: "))
    words = shlex.split(line.removeprefix("check it: mailgate "))
    assert "ok: " in shell(*words).stdout


def test_an_id_stands_in_one_piece_on_a_narrow_terminal(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    made = shell.json("hold", "place", "acme", "--matter", "M-1 " * 20, "--reason", "claim received")
    monkeypatch.setattr(session, "out", Console(force_terminal=True, width=80, color_system=None))
    said = shell("hold", "list", "acme").stdout
    assert made["id"] in said
    assert max(map(len, said.splitlines())) <= 80


def test_an_entry_is_opened_and_checked(shell: Shell) -> None:
    place = ["hold", "place", "acme", "--matter", "M-1", "--reason", "claim received"]
    shell(*place)
    made = shell.json("audit", "disclose", "acme", "2", "--out", "opened.json")
    assert made["opened"] == ["reason"]
    assert Path("opened.json").stat().st_mode & 0o077 == 0
    checked = json.loads(shell("audit", "check-proof", "opened.json", "--vkey", made["vkey"], "--json").stdout)
    assert (checked["verdict"], checked["opened"]) == ("ok", {"reason": "claim received"})
    wrong = shell("audit", "disclose", "acme", "2", "--out", "x", "--value", "reason=other", expect=4)
    assert "not_committed_to" in wrong.stderr
    assert not Path("x").exists()
    assert "entity=…" in shell("audit", "disclose", "acme", "2", "--out", "x", "--value", "reasons=a", expect=2).stderr


def test_where_an_opened_entry_can_not_be_written_that_is_said(shell: Shell) -> None:
    shell("hold", "place", "acme", "--matter", "M-1", "--reason", "claim received")
    for out, why in (("data/mailgate.db/x", "Not a directory"), ("/proc/x", "No such file or directory")):
        result = shell("audit", "disclose", "acme", "2", "--out", out, expect=4)
        assert result.stderr == f"mailgate: {out} can't be written: {why} (disclose_failed)\n"


def test_an_entry_is_opened_for_its_reader_alone_also_in_a_file_that_all_may_read(shell: Shell) -> None:
    shell("hold", "place", "acme", "--matter", "M-1", "--reason", "claim received")
    there = Path("opened.json")
    there.write_text("x" * 10_000)
    there.chmod(0o644)
    shell("audit", "disclose", "acme", "2", "--out", "opened.json")
    assert there.stat().st_mode & 0o077 == 0
    assert json.loads(there.read_text())["v"] == 1


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "piped"])
def test_what_to_check_a_log_and_an_entry_with_can_be_copied(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, *, terminal: bool
) -> None:
    """Of 80 columns or none, a command stays one line: a terminal breaks it where it ends, and copies it whole."""
    shell("hold", "place", "acme", "--matter", "M-1", "--reason", "claim received")
    monkeypatch.setattr(session, "out", Console(force_terminal=terminal, width=80, color_system=None))
    for words, said in (
        (["export", "acme", "log"], "3 entries in log"),
        (["disclose", "acme", "2", "--out", "entry"], "entry 2 opened (reason) in entry; only for who may know it"),
    ):
        first, check = shell("audit", *words, COLUMNS="80").stdout.splitlines()
        assert first == said
        assert check.startswith("check it: mailgate audit ")
        program, *rest = shlex.split(check.removeprefix("check it: "))
        assert program == "mailgate"
        assert shell(*rest).stdout.startswith("ok: ")


def test_tenants(shell: Shell) -> None:
    assert shell.json("tenant", "add", "acme") == {"id": "acme", "name": "acme", "made": False}
    (tenant,) = shell.json("tenant", "list")
    assert (tenant["plan"], tenant["retention_days"], tenant["sync"]) == ("standard", 60, True)
    assert "acme\tacme\tstandard\tactive\t60\t-" in shell("tenant", "list").stdout
    shell.json("tenant", "plan", "acme", "demo", "--until", NOW)
    assert shell.json("tenant", "list")[0]["period_end"] == NOW


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["tenant", "plan", "acme", "gold"], 4, "plan_unknown"),
        (["tenant", "plan", "nobody", "demo"], 4, "tenant_not_found"),
        (["tenant", "add", "a b"], 2, "1 to 64 letters"),
        (["tenant", "add", "."], 2, "is not `.` or `..`"),
        (["tenant", "add", ".."], 2, "is not `.` or `..`"),
        (["tenant", "plan", "..", "demo"], 2, "is not `.` or `..`"),
        (["tenant", "plan", "acme", "demo", "--until", "soon"], 2, "2026-01-31"),
        (["purge", "--dry-run", "--at", "20260131T000000Z"], 2, "2026-01-31"),
        (["mailbox", "list", "nobody"], 4, "tenant_not_found"),
        (["mailbox", "enable", "nobody@acme.example"], 4, "mailbox_not_found"),
        (["sync", "nobody@acme.example"], 4, "mailbox_not_found"),
        (["purge", "--tenant", "nobody"], 4, "tenant_not_found"),
        (["purge", "--at", NOW], 2, "--dry-run"),
        (["purge", "--plan", "free"], 2, "--dry-run"),
        (["purge", "--dry-run", "--plan", "gold"], 4, "plan_unknown"),
        (["purge", "--dry-run", "--at", "2020-01-01T00:00:00Z"], 4, "at_in_the_past"),
        (["token", "revoke", "x"], 4, "token_not_found"),
        (["token", "create", "x", "--scope", "root"], 2, "root"),
        (["token", "create", "x", "--scope", "crm", "--tenant", "nobody"], 4, "tenant_not_found"),
        (["audit", "export", "nobody", "out"], 4, "tenant_not_found"),
        (["audit", "export", "acme", "data"], 4, "data is there already and not empty (export_failed)"),
        (["audit", "export", "acme", "data/mailgate.db"], 4, "is there already and no folder (export_failed)"),
        (["audit", "export", "acme", "data/mailgate.db/x"], 4, "data/mailgate.db/x can't be written: "),
        (["audit", "export", "acme", "/proc/x", "--format", "csv"], 4, "/proc/x can't be written: No such file"),
        (["audit", "disclose", "acme", "2", "--out", "x"], 4, "the log has no entry 2 (leaf_not_found)"),
        (["audit", "disclose", "acme", "0", "--out", "x"], 4, "policy.set, commits to nothing"),
        (["audit", "disclose", "acme", "first", "--out", "x"], 2, "Invalid value for 'INDEX'"),
        (["audit", "disclose", "acme", "0", "--out", "data"], 2, "'data' is a directory"),
        (["audit", "disclose", "nobody", "0", "--out", "x"], 4, "tenant_not_found"),
        (["nothing"], 2, "nothing"),
    ],
)
def test_refusals_are_one_clear_line(shell: Shell, words: list[str], code: int, said: str) -> None:
    result = shell(*words, expect=code)
    assert said in result.stderr
    assert "Traceback" not in result.output
    if code == 4:
        assert len(result.stderr.splitlines()) == 1


def test_an_account_is_connected_with_its_password_from_standard_input(shell: Shell) -> None:
    words = ["mailbox", "add", "acme", "ann@acme.example", "--host", "127.0.0.1", "--port", "9", "--password-stdin"]
    result = shell(*words, stdin="hunter2\n")
    assert "is connecting" in result.stdout
    assert "hunter2" not in result.output
    (mailbox,) = shell.json("mailbox", "list", "acme")
    assert mailbox["imap"] == {"host": "127.0.0.1", "port": 9, "security": "tls", "username": "ann@acme.example"}
    assert "mailbox_exists" in shell(*words, stdin="hunter2\n", expect=4).stderr
    off = shell.json("mailbox", "disable", "ann@acme.example")
    assert (off["enabled"], off["state"]) == (False, "disabled")
    assert "switched off" in shell("sync", mailbox["id"], "--once", expect=4).stderr
    on = shell.json("mailbox", "enable", mailbox["id"])
    assert (on["enabled"], on["state"]) == (True, "connecting")
    asked = shell.json("mailbox", "backfill", mailbox["id"], "--days", "1")
    assert (asked["state"], asked["days"]) == ("queued", 1)
    refused = shell.json("mailbox", "verify", mailbox["id"], expect=1)
    assert refused["ok"] is False
    assert refused["steps"][0]["step"] == "resolve"
    assert "net.allow" in refused["steps"][0]["detail"]


def test_a_password_from_the_environment_and_none_at_all(shell: Shell) -> None:
    words = ["mailbox", "add", "acme", "ann@acme.example", "--host", "imap.acme.example"]
    assert "--password-stdin" in shell(*words, expect=2).stderr
    shell(*words, MAILGATE_MAILBOX_PASSWORD="hunter2")


@pytest.mark.parametrize(
    "words",
    [
        ["no address", "--host", "imap.example.com"],
        ["", "--host", "imap.example.com"],
        ["me@example.com", "--host", ""],
        ["me@example.com", "--host", "imap example com"],
        ["me@example.com", "--host", "imap.example.com", "--username", "me\r\nA1 LOGOUT"],
        ["me@example.com", "--host", "imap.example.com", "--username", ""],
    ],
)
def test_an_account_must_be_what_the_interface_would_accept(shell: Shell, words: list[str]) -> None:
    refused = shell("mailbox", "add", "acme", *words, expect=2, MAILGATE_MAILBOX_PASSWORD="geheim-geheim")
    assert "geheim" not in refused.output
    assert shell.json("mailbox", "list", "acme") == []


def test_bytes_that_are_no_text_are_wrong_usage(bare: Shell) -> None:
    """As a process: the arguments of one that Python calls are text already."""
    words: list[str | bytes] = [sys.executable, "-m", "mailgate.cli", "mailbox", "disable", b"\xff"]
    done = subprocess.run(words, capture_output=True, check=False, cwd=bare.folder)
    assert done.returncode == 2
    assert done.stderr.decode() == "mailgate: an argument is not UTF-8 text\n"


ABORTS = """
import atexit, os, sys
class Aborts:
    def __del__(self):
        os.abort()
kept = Aborts()  # as a thread of obstore's would: the interpreter is taken apart under it
atexit.register(print, "bye", end="")
from mailgate.cli import main
main()
"""


@pytest.mark.parametrize(("words", "code"), [(["--version"], 0), (["tenant", "list"], 3)])
def test_nothing_aborts_a_process_that_is_done(bare: Shell, words: list[str], code: int) -> None:
    done = subprocess.run([sys.executable, "-c", ABORTS, *words], capture_output=True, check=False, cwd=bare.folder)
    assert (done.returncode, done.stdout[-3:]) == (code, b"bye"), done.stderr


def test_what_cannot_be_said_is_no_success(shell: Shell) -> None:
    with Path("/dev/full").open("wb") as full:
        words = [sys.executable, "-m", "mailgate.cli", "tenant", "list", "--json"]
        environ = {"MAILGATE_DATA_DIR": str(shell.folder / "data")}
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, check=False, cwd=shell.folder, env=environ)
    assert done.returncode == 120, done.stderr


def test_no_command_takes_a_password_as_an_argument(shell: Shell) -> None:
    assert "No such option" in shell("mailbox", "add", "acme", "a@b", "--host", "h", "--password", "x", expect=2).stderr


def test_one_pass_here_against_a_server_that_is_not_there(shell: Shell) -> None:
    words = ["mailbox", "add", "acme", "ann@acme.example", "--host", "127.0.0.1", "--port", "9", "--password-stdin"]
    shell(*words, stdin="hunter2\n")
    result = shell("sync", "ann@acme.example", "--once", expect=5)
    assert "127.0.0.1" in result.stderr


def test_a_free_tenant_connects_nothing(shell: Shell) -> None:
    shell("tenant", "plan", "acme", "free")
    words = ["mailbox", "add", "acme", "ann@acme.example", "--host", "h.example", "--password-stdin"]
    assert "not_entitled" in shell(*words, stdin="x\n", expect=4).stderr


@pytest.mark.parametrize("form", ["tlog", "csv", "ndjson"])
def test_a_log_that_could_not_note_its_export_is_not_handed_out(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    async def full(*_: object, **__: object) -> None:
        raise UnavailableError("the disk is full", slug="database_full")

    with monkeypatch.context() as patched:
        patched.setattr(PurgeLog, "note_export", full)
        shell("audit", "export", "acme", "out", "--format", form, expect=5)
    assert [path.name for path in shell.folder.iterdir()] == ["data"]
    shell("audit", "export", "acme", "out", "--format", form)


def test_purges(shell: Shell) -> None:
    counts = {"candidates": 0, "purged": 0, "failed": 0, "kept": {}}
    dry = shell.json("purge", "--dry-run", "--at", NOW)
    assert (dry["now"], dry["run"], {name: dry[name] for name in counts}) == (NOW, None, counts)
    done = shell.json("purge", "--tenant", "acme")
    assert (done["state"], done["dry_run"]) == ("completed", False)
    with sqlite3.connect(shell.folder / "data" / "mailgate.db") as conn:  # as if that one had been cut off
        conn.execute("UPDATE runs SET state = 'running', finished_at = NULL WHERE id = ?", [done["run"]])
    conn.close()
    said = shell("purge").stdout
    assert f"run {done['run']}, which had been cut off: completed, 0 purged in all" in said
    assert "0 purged" in shell("purge").stdout
    assert "cut off" not in shell("purge").stdout
    assert "erased" not in shell("purge").stdout


def no_file(shell: Shell) -> str:
    """A blob that waits to be erased and can't be; why."""
    blob_id = "41J958DJ00PFX7MPBHKT7X4Z00"
    (shell.folder / "data" / "blobs" / path_of(blob_id)).mkdir(parents=True)  # what is no file can't be unlinked
    with sqlite3.connect(shell.folder / "data" / "mailgate.db") as conn:
        columns = "(blob_id, tenant_id, queued_at, next_at)"
        conn.execute(f"INSERT INTO blob_erasures {columns} VALUES (?, 'acme', 0, 0)", [blob_id])  # noqa: S608
    conn.close()
    return f"blob {blob_id} can't be erased: Is a directory"


def test_a_purge_says_what_could_not_be_erased(shell: Shell) -> None:
    why = no_file(shell)
    said = shell("purge").stdout
    assert f"bytes of 1 blob could not be erased yet: {why}; no key opens them any more, and the gateway tries" in said
    done = shell.json("purge", "--tenant", "acme")  # it is not tried again so soon, and still there
    assert (done["failed"], done["not_erased"], done["erase_error"]) == (0, 1, why)
    shell("tenant", "add", "other", "--name", "Other")
    assert shell.json("purge", "--tenant", "other")["not_erased"] == 0


def test_holds(shell: Shell) -> None:
    said = shell("hold", "place", "acme", "--matter", "M-1", "--reason", "a claim").stdout
    assert "stands on tenant: M-1" in said
    (hold,) = shell.json("hold", "list", "acme")
    assert (hold["scope"], hold["matter"], hold["protects_until"]) == ("tenant", "M-1", None)
    released = shell.json("hold", "release", "acme", hold["id"], "--reason", "settled")
    assert released["protects_until"] is not None
    assert shell.json("hold", "list", "acme", "--standing") == []
    usual = ["hold", "place", "acme", "--matter", "M", "--reason", "r"]
    assert "message_not_found" in shell(*usual, "--message", "X", expect=4).stderr
    shell(*usual, "--mailbox", "X", "--message", "Y", expect=2)


def test_tokens(shell: Shell) -> None:
    made = shell.json("token", "create", "the crm", "--scope", "crm", "--tenant", "acme", "--expires", NOW)
    assert (made["scopes"], made["tenant_id"], made["expires_at"]) == (["crm"], "acme", NOW)
    shell("token", "revoke", made["id"])
    listed = {token["id"]: token for token in shell.json("token", "list")}
    assert listed[made["id"]]["revoked_at"] is not None
    assert made["token"] not in json.dumps(list(listed.values()))


def test_doctor_and_migrate(shell: Shell) -> None:
    report = shell.json("doctor", "--deep")
    assert report["healthy"] is True
    assert report["checks"] > 10
    schema = shell.json("migrate")
    assert schema["before"] == schema["after"]


def test_a_database_without_schema_is_named(shell: Shell) -> None:
    (shell.folder / "data" / "mailgate.db").unlink()
    assert "mailgate migrate" in shell("doctor", expect=3).stderr
    shell("migrate")
    shell("doctor")


def test_a_database_that_does_not_answer_is_one_line(bare: Shell) -> None:
    environ = {"MAILGATE_DATABASE__URL": "postgresql://mailgate:geheim@127.0.0.1:1/mailgate"}
    for command in ("migrate", "init"):
        said = bare(command, expect=5, **environ).stderr
        assert "the database can't be used" in said
        assert said.count("\n") == 1
        assert "geheim" not in said


def test_a_folder_that_can_not_be_made_is_named(bare: Shell) -> None:
    (bare.folder / "file").write_text("")
    said = bare("init", expect=5, MAILGATE_DATA_DIR=str(bare.folder / "file")).stderr
    assert said == f"mailgate: {bare.folder / 'file'} can't be used: File exists\n"


def test_doctor_finds_a_contradiction(shell: Shell) -> None:
    with sqlite3.connect(shell.folder / "data" / "mailgate.db") as conn:
        conn.execute("UPDATE tenant_heads SET copies = copies + 1")
    conn.close()
    report = shell.json("doctor", expect=1)
    assert report["findings"][0]["tenant_id"] == "acme"


def test_doctor_finds_that_nothing_can_be_written(shell: Shell) -> None:
    """No row could tell of it."""
    with sqlite3.connect(shell.folder / "data" / "mailgate.db") as conn:
        conn.execute("CREATE TRIGGER full BEFORE INSERT ON installation BEGIN SELECT raise(ABORT, 'disk is full'); END")
    conn.close()
    report = shell.json("doctor", expect=1)
    assert report["healthy"] is True
    assert [(alarm["kind"], alarm["tenant_id"]) for alarm in report["alarms"]] == [("log_unwritable", None)]
    assert "nothing can be written: disk is full" in report["alarms"][0]["detail"]


def test_doctor_says_how_lost_bytes_come_back(shell: Shell) -> None:
    with sqlite3.connect(shell.folder / "data" / "mailgate.db") as conn:
        conn.execute(
            "INSERT INTO blobs VALUES ('41J958DJ00PFX7MPBHKT7X4Z00', 'acme', X'00', 1, 1, X'00', 202611, 0, 0)"
        )
    conn.close()
    said = shell("doctor", expect=1).stdout
    assert "lost blobs: 1; `mailgate doctor --repair` has their copies fetched again" in said
    assert "a copy's blob is there: tenant acme: blob 41J958DJ00PFX7MPBHKT7X4Z00 has no object" in said
    said = shell("doctor", "--repair", expect=1).stdout
    assert "copies to be fetched again with the next passes of their mailboxes: 0" in said
    assert "`" not in said
    report = shell.json("doctor", "--repair", expect=1)
    assert (report["lost"], report["fetched_again"], report["without_original"]) == (1, 0, 0)


def test_doctor_names_a_damaged_file_that_is_nobodys(shell: Shell) -> None:
    """It is no contradiction: a power cut leaves such files."""
    name = "41J958DJ00PFX7MPBHKT7X4Z"
    place = f"{zlib.crc32(name.encode()) % 256:02x}/{name}"
    (shell.folder / "data" / "blobs" / place).write_bytes(bytes(100))
    said = shell("doctor").stdout
    assert f"file {place} of blobs.url can't be read: its table is damaged; nothing refers to it" in said
    assert "it is removed by itself within two days" in said
    (found,) = shell.json("doctor")["unreadable"]
    assert (found["file"], found["detail"]) == (place, "its table is damaged")


def test_a_log_hears_of_the_settings_before_anything_is_written_under_them(shell: Shell) -> None:
    """Whichever command is the first under them; else an auditor finds purges by a policy that nobody set."""
    commands = [
        ("tenant", "plan", "acme", "crm_plus"),
        ("hold", "place", "acme", "--matter", "M", "--reason", "r"),
        ("purge", "--tenant", "acme"),
        ("tenant", "add", "another"),
    ]
    for number, command in enumerate(commands):
        shell(*command, MAILGATE_RETENTION__BRAKE_MIN=str(number))
    shell("doctor", MAILGATE_RETENTION__BRAKE_MIN="77")  # changes nothing
    shell("purge", "--dry-run", MAILGATE_RETENTION__BRAKE_MIN="78")
    shell("audit", "export", "acme", "out", "--format", "ndjson", MAILGATE_RETENTION__BRAKE_MIN="79")
    known: list[int] = []
    found = set()
    for line in (shell.folder / "out" / "entries.ndjson").read_text().splitlines():
        leaf = json.loads(line)
        if leaf["type"] == "policy.set":
            known.append(leaf["policy"]["sha256"])
            found.add(leaf["document"]["brake"][0])
        assert leaf["policy"]["sha256"] in known, leaf["type"]
    assert found == {0, 1, 2, 3, 79, 1_000}


def heard(shell: Shell) -> list[tuple[str, int | None]]:
    """The entries of acme's log with `brake_min`, where they tell of a policy; each names one that it heard of."""
    with contextlib.closing(sqlite3.connect(shell.folder / "data" / "mailgate.db")) as database:
        bodies = database.execute("SELECT body FROM log_leaves WHERE tenant_id = 'acme' ORDER BY idx").fetchall()
    known, found = set(), []
    for leaf in (json.loads(body) for (body,) in bodies):
        if leaf["type"] == "policy.set":
            known.add(leaf["policy"]["sha256"])
        assert leaf["policy"]["sha256"] in known, leaf["type"]
        found.append((leaf["type"], leaf["document"]["brake"][0] if "document" in leaf else None))
    return found


def restore_an_older_database(shell: Shell) -> None:
    """As from a backup that was made before the tenant went to another plan; the witness knows of both."""
    shell("purge")
    database = shell.folder / "data" / "mailgate.db"
    shutil.copyfile(database, shell.folder / "backup.db")
    shell("tenant", "plan", "acme", "professional")
    shell("purge")
    for file in database.parent.glob("mailgate.db*"):
        file.unlink()
    shutil.copyfile(shell.folder / "backup.db", database)


def test_a_log_that_was_replayed_hears_of_the_settings_then(shell: Shell) -> None:
    """Not before: what is written behind a backup's entries makes it another log than the one that was signed."""
    restore_an_older_database(shell)
    shell("restore", "--dry-run", MAILGATE_RETENTION__BRAKE_MIN="5")
    before = heard(shell)
    assert "up to date" in shell("restore", MAILGATE_RETENTION__BRAKE_MIN="5").stdout
    after = heard(shell)
    assert (after[: len(before)], after[-1]) == (before, ("policy.set", 5))
    assert ("plan.effective", None) in after[len(before) : -1]
    shell("audit", "export", "acme", "out")


def test_a_log_hears_of_the_settings_before_a_cut_change_of_the_master_key_is_told(shell: Shell) -> None:
    shell("key", "rotate", "--master")
    rotate_master(f"file://{shell.folder / 'data' / 'keys'}", master=None, new_master=None)  # and the process is killed
    shell("key", "rotate", "--master", MAILGATE_RETENTION__BRAKE_MIN="6")
    told = [("policy.set", 6), ("key.rotate", None), ("key.rotate", None)]
    assert heard(shell)[-3:] == told


def test_a_log_is_exported_and_verified(shell: Shell) -> None:
    done = shell.json("audit", "export", "acme", "out")
    assert done["entries"] >= 2
    shell("audit", "verify", "out", "--vkey", done["vkey"])
    assert "not empty" in shell("audit", "export", "acme", "out", expect=4).stderr
    with contextlib.closing(sqlite3.connect(shell.folder / "data/mailgate.db")) as db, db:
        forged = "CAST(replace(CAST(body AS TEXT), 'standard', 'excluded') AS BLOB)"
        db.execute(f"UPDATE log_leaves SET body = {forged} WHERE type = 'plan.effective'")  # noqa: S608 - words above
    assert "compare the database with its backups" in shell("audit", "export", "acme", "forged", expect=4).stderr


def test_texts_of_others_do_not_reach_the_terminal_as_codes(shell: Shell) -> None:
    shell("tenant", "add", "acme", "--name", "\x1b]0;owned\x07[red]x")
    assert "\x1b]0" not in shell("tenant", "list").stdout


def test_every_command_says_what_it_does_and_takes_json(bare: Shell) -> None:
    without = {"serve", "demo", "prove"}  # the output of `prove` is a format of its own
    for words in commands():
        text = bare(*words, "--help").stdout
        if words[-1] not in without:
            assert "--json" in text, words
    assert "Exit codes" in bare("--help").stdout


def commands() -> list[list[str]]:
    found: list[list[str]] = []

    def walk(command: Any, path: list[str]) -> None:
        for name, inner in getattr(command, "commands", {}).items():
            if hasattr(inner, "commands"):
                walk(inner, [*path, name])
            else:
                found.append([*path, name])

    walk(COMMAND, [])
    return found


def test_keys_of_this_month_stay_as_they_are(shell: Shell) -> None:
    done = shell.json("key", "rotate")
    assert done == {
        "tenants": 1,
        "wrapped": {"messages": 0, "blobs": 0, "submissions": 0},
        "unreadable": 0,
        "destroyed": [],
        "kept": [],
    }
    assert "1 tenants" in shell("key", "rotate", "--tenant", "acme", "--at-once").stdout
    shell("key", "rotate", "--tenant", "nobody", expect=4)
    shell("key", "rotate", "--master", "--at-once", expect=2)


def test_no_key_is_destroyed_by_a_clock_that_jumped(shell: Shell) -> None:
    """A backup of yesterday would be noise: the time for which keys are kept passes by that clock."""
    with sqlite3.connect(shell.folder / "data" / "mailgate.db") as conn:
        conn.execute("INSERT OR REPLACE INTO installation (key, value) VALUES (?, '1')", [CLOCK_MARK])
    conn.close()
    for words in ([], ["--at-once"], ["--tenant", "acme"]):
        said = shell("key", "rotate", *words, expect=4).stderr
        assert "no key is destroyed: the clock went forward" in said
    shell("purge", "--approve-clock")
    shell("key", "rotate")


def test_another_master_key_opens_everything_and_stands_in_the_log(shell: Shell) -> None:
    done = shell.json("key", "rotate", "--master")
    assert (done["files"], done["logs"]) == (5, 1)
    assert shell.json("doctor")["healthy"]
    refused = shell("key", "rotate", "--master", expect=3, MAILGATE_NEW_MASTER_KEY="A" * 43 + "=")
    assert "given together" in refused.stderr


def test_a_tenant_is_erased_only_after_its_id_was_typed(shell: Shell) -> None:
    assert "nothing was done" in shell("tenant", "erase", "acme", stdin="acm\n", expect=2).stderr
    assert shell.json("tenant", "list") != []
    asked = shell("tenant", "erase", "acme", "--reason", "erasure_request", stdin="acme\n")
    assert "tenant acme is erased: 0 copies" in asked.stdout
    again = shell.json("tenant", "erase", "acme", "--yes")
    assert (again["state"], again["reason"], again["purged"]) == ("erased", "erasure_request", 0)
    assert shell.json("tenant", "list") == []
    assert shell.json("doctor")["healthy"]
    shell("tenant", "add", "acme", expect=4)
    shell("audit", "export", "acme", str(shell.folder / "log"))
    shell("tenant", "erase", "nobody", "--yes", expect=4)


def test_a_restored_backup_is_brought_up_to_date_before_anything_else(shell: Shell) -> None:
    restore_an_older_database(shell)
    refused = shell("tenant", "list", expect=4)
    assert "backup_restored" in refused.stderr
    assert "logs that are behind: 1. A backup was restored" in refused.stderr
    assert [log["tenant"] for log in shell.json("restore", "--dry-run")["behind"]] == ["acme"]
    assert "up to date" in shell("restore").stdout
    assert "no log is behind" in shell("restore", "--dry-run").stdout
    assert shell.json("tenant", "list")[0]["plan"] == "professional"
    assert shell.json("restore")["replayed"] == []
    shell("audit", "export", "acme", str(shell.folder / "log"))


def test_a_backup_that_is_older_than_its_keys_is_told_at_once(shell: Shell) -> None:
    """Its copies are there and counted, but nothing of them can be shown."""
    restore_an_older_database(shell)
    with sqlite3.connect(shell.folder / "data" / "mailgate.db") as conn:
        conn.execute(
            "INSERT INTO blobs VALUES ('41J958DJ00PFX7MPBHKT7X4Z00', 'acme', X'00', 1, 1, X'00', 201001, 0, 0)"
        )
    conn.close()
    for words in (["restore", "--dry-run"], ["restore"], ["restore"]):
        said = shell(*words, expect=1).stdout
        assert "tenant acme: the key of 201001 is gone: 1 blob can't be read" in said
        assert "restore a newer one" in said
    assert [lost["tenant"] for lost in shell.json("restore", expect=1)["unreadable"]] == ["acme"]
    said = shell("doctor", "--repair", expect=1).stdout
    assert "a copy's key is there: tenant acme: the key of 201001 is gone: 1 blob can't be read" in said
    assert "  Put back a backup of the key store (keys.url) that has it. Nothing fetches these copies again" in said


def test_a_restore_says_what_could_not_be_erased(shell: Shell) -> None:
    restore_an_older_database(shell)
    why = no_file(shell)
    said = shell("restore").stdout
    assert "1 entry replayed" in said
    assert f"bytes of 1 blob could not be erased yet: {why}; no key opens them any more" in said


@pytest.mark.parametrize("words", [["restore"], ["restore", "--dry-run"], ["tenant", "list"]])
def test_a_key_store_that_can_only_be_read_is_named(
    shell: Shell, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, real = shell.folder / "data" / "keys" / ".lock", os.open

    def refuse(path: Any, *rest: Any, **more: Any) -> int:
        if Path(path) == lock:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, *rest, **more)

    monkeypatch.setattr("mailgate.keys.directory.os.open", refuse)
    said = shell(*words, expect=3).stderr
    assert f"the key store can't be locked with {lock}: Read-only file system; make the directory writable" in said


def test_a_restored_backup_forgets_no_hold(shell: Shell) -> None:
    """Nobody purged or exported since, and no gateway runs that would sign the log by itself."""
    usual = ["hold", "place", "acme", "--matter", "M-1", "--reason", "a claim", "--json"]
    stands, released = (json.loads(shell(*usual).stdout)["id"] for _ in range(2))
    database = shell.folder / "data" / "mailgate.db"
    shutil.copyfile(database, shell.folder / "backup.db")
    later = json.loads(shell(*usual).stdout)["id"]
    shell("hold", "release", "acme", released, "--reason", "settled")
    for file in database.parent.glob("mailgate.db*"):
        file.unlink()
    shutil.copyfile(shell.folder / "backup.db", database)
    said = shell("restore").stdout
    assert "2 entries replayed: 1 hold.place, 1 hold.release\n" in said
    found = {hold["id"]: hold["released_at"] is not None for hold in shell.json("hold", "list", "acme")}
    assert found == {stands: False, released: True, later: False}


def test_a_hold_is_placed_though_the_log_can_not_be_signed(shell: Shell) -> None:
    shell("purge")
    witness = shell.folder / "data" / "witness"
    witness.rename(witness.with_name("elsewhere"))
    said = shell("hold", "place", "acme", "--matter", "M-1", "--reason", "a claim")
    assert "can't be signed now" in said.stderr
    assert "ledger.witness" in said.stderr
    assert len(shell.json("hold", "list", "acme")) == 1


def test_a_witness_that_is_lost_is_begun_anew_when_it_is_said(shell: Shell) -> None:
    shell("purge")
    witness = shell.folder / "data" / "witness"
    shutil.rmtree(witness)
    shell("tenant", "plan", "acme", "professional")
    assert "ledger.witness" in shell("purge", expect=5).stderr
    assert not witness.exists()
    assert "--dry-run" in shell("restore", "--new-witness", "--dry-run", expect=2).stderr
    shell("audit", "export", "acme", "log", expect=5)
    assert shell.json("restore", "--new-witness") == {"new_witness": 1}
    assert {path.suffix for path in witness.iterdir()} >= {".checkpoint", ".log"}
    shell("purge")


@pytest.mark.parametrize("words", [["audit", "verify", "log", "--vkey", "x"], ["tenant", "list"]])
def test_a_command_that_is_stopped_ends_with_130(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    """Of an audit 1 would say that the log is unreadable."""

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mailgate.cli.audit.verify_directory", stop)
    monkeypatch.setattr("mailgate.cli.audit.Verifier.from_vkey", stop, raising=False)
    monkeypatch.setattr("mailgate.cli.session.opened", stop)
    assert shell(*words, expect=130).stderr == "stopped\n"


def test_one_that_is_stopped_while_it_begins_says_so(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    class Stopping:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "mailgate.cli.commands":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "mailgate.cli.commands")
    monkeypatch.setattr(sys, "meta_path", [Stopping(), *sys.meta_path])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert (ended.value.code, capsys.readouterr().err) == (130, "stopped\n")
