"""`mailgate user …`: people are added, given passwords, disabled; no password is shown."""

from __future__ import annotations

from tests.unit.cli.test_commands import Shell, bare, shell

__all__ = ["bare", "shell"]

PASSWORD = "correct horse battery"


def test_people_are_added_listed_and_disabled(shell: Shell) -> None:
    assert shell.json("user", "list") == []
    made = shell.json("user", "add", "Ann", "--role", "admin", "--password-stdin", stdin=PASSWORD + "\n")
    assert (made["name"], made["role"], made["tenant_id"], made["one_time_codes"]) == ("ann", "admin", None, False)
    shell("user", "add", "cleo", "--role", "compliance", "--tenant", "acme", stdin=PASSWORD + "\n")
    assert [user["name"] for user in shell.json("user", "list")] == ["ann", "cleo"]
    assert PASSWORD not in shell("user", "list").stdout
    assert shell.json("user", "disable", "ANN")["disabled_at"]
    assert shell.json("user", "enable", "ann")["disabled_at"] is None
    changed = shell("user", "password", "ann", "--forget-codes", stdin="another long password\n")
    assert "signed out everywhere" in changed.stdout


def test_what_can_not_be_is_refused(shell: Shell) -> None:
    add = ("user", "add", "ann", "--role", "admin")
    shell(*add, stdin="short\n", expect=4)
    shell("user", "add", "a b", "--role", "admin", stdin=PASSWORD + "\n", expect=4)
    shell("user", "add", "ann", "--role", "owner", stdin=PASSWORD + "\n", expect=2)
    shell(*add, "--tenant", "nobody", stdin=PASSWORD + "\n", expect=4)
    shell(*add, stdin=PASSWORD + "\n")
    shell(*add, stdin=PASSWORD + "\n", expect=4)
    shell("user", "disable", "nobody", expect=4)


def test_init_can_make_the_first_admin_and_says_how_otherwise(bare: Shell) -> None:
    assert "mailgate user add NAME --role admin" in bare("init").stdout
    made = bare.json("init", "--user", "ann", "--password-stdin", stdin=PASSWORD + "\n")
    assert (made["user"], made["pages_have_admin"]) == ("ann", True)
    assert "user add" not in bare("init").stdout
