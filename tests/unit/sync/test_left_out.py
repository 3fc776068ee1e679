"""What of a server's list of folders is not kept in step is said, not passed over."""

from __future__ import annotations

from connectors.model import Folder
from mailgate.sync.listing import FOLDERS_LIMIT, NAME_LIMIT, left_out


def folder(name: str) -> Folder:
    return Folder(name, "/", frozenset(), None, selectable=True)


def test_long_names_and_too_many_folders() -> None:
    long, short = folder("x" * (NAME_LIMIT + 1)), folder("x" * NAME_LIMIT)
    assert left_out([short]) is None
    assert left_out([long, short]) == "folders are left out: 1 with names of more than 900 characters"
    many = [folder(f"{n}") for n in range(FOLDERS_LIMIT + 2)]
    assert left_out(many) == "folders are left out: 2 beyond the first 10000"
    assert left_out([*many, long]) == (
        "folders are left out: 1 with names of more than 900 characters, 2 beyond the first 10000"
    )
