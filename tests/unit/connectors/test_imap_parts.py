"""The small pure parts: commands as bytes, refusals, dates, folders, sets."""

from __future__ import annotations

from datetime import date

import pytest

from connectors.errors import FolderGoneError, NetworkError, ServerError, ThrottledError, clean_text
from connectors.imap.command import Argument, Group, Literal, Str, encode, literal_plus
from connectors.imap.folders import folders_of
from connectors.imap.internaldate import format_search_date, parse_internal_date
from connectors.imap.refusal import bye_error, command_error, open_error, redact
from connectors.imap.responses import ListItem, Status
from connectors.imap.uidset import MAX_UID, format_set, join, parse_set
from connectors.imap.utf7 import decode_name, encode_name
from connectors.model import SpecialUse

# Commands


@pytest.mark.parametrize(
    ("arguments", "plus", "chunks"),
    [
        (["NOOP"], 0, [b"t NOOP\r\n"]),
        (["LOGIN", Str(b"a"), Str(b'b"\\')], 0, [b't LOGIN "a" "b\\"\\\\"\r\n']),
        (["X", Str(b"")], 0, [b't X ""\r\n']),
        (["X", Str(b"\xff"), Str(b"b\r\n")], 0, [b"t X {1}\r\n", b"\xff {3}\r\n", b"b\r\n\r\n"]),
        (["X", Str(b"\xff"), "Y"], 10, [b"t X {1+}\r\n\xff Y\r\n"]),
        (["X", Str(b"\xff" * 11)], 10, [b"t X {11}\r\n", b"\xff" * 11 + b"\r\n"]),
        (["X", Str(b"a" * 1001)], 0, [b"t X {1001}\r\n", b"a" * 1001 + b"\r\n"]),
    ],
)
def test_a_command_as_bytes(arguments: list[Argument], plus: int, chunks: list[bytes]) -> None:
    assert encode("t", arguments, literal_plus=plus) == chunks


@pytest.mark.parametrize("word", ["a\r\nb", "a\nb", "a\0b", "ü", "", "a\tb"])
def test_protocol_words_cannot_end_the_line(word: str) -> None:
    with pytest.raises(ValueError, match="ASCII"):
        encode("t", [word])


def test_nul_fits_no_string_and_a_string_shows_its_length_only() -> None:
    with pytest.raises(ValueError, match="NUL"):
        Str(b"a\0b")
    assert repr(Str(b"secret")) == "Str(<6 octets>)"
    assert repr(Literal(b"secret")) == "Literal(<6 octets>)"


def test_nul_has_a_place_in_a_binary_literal_only() -> None:
    assert encode("t", [Literal(b"\0", binary=True)], literal_plus=1) == [b"t ~{1+}\r\n\0\r\n"]
    assert encode("t", [Literal(b"\0", binary=True)]) == [b"t ~{1}\r\n", b"\0\r\n"]
    for kind in (Str, Literal):
        with pytest.raises(ValueError):
            kind(b"\0")


def test_groups_of_arguments() -> None:
    group = Group(("\\Inbox", Str(b"a b"), Str(b"a\nb")))
    assert encode("t", ["x", group, "y"]) == [b't x (\\Inbox "a b" {3}\r\n', b"a\nb) y\r\n"]
    assert encode("t", [Group(())]) == [b"t ()\r\n"]


def test_literal_plus() -> None:
    assert literal_plus(frozenset({"LITERAL+"})) > 1 << 30
    assert literal_plus(frozenset({"LITERAL-"})) == 4096
    assert literal_plus(frozenset({"IMAP4REV1"})) == 0


# Refusals


@pytest.mark.parametrize(
    ("text", "secrets", "expected"),
    [
        ("no hunter2 here", ["hunter2"], "no *** here"),
        ("nothing", ["hunter2"], "nothing"),
        ("cut off hunt…", ["hunter2"], "cut off …"),
        ("ends in h…", ["hunter2"], "ends in …"),
        ("whole hunter2…", ["hunter2"], "whole ***…"),
        ("a b", ["a\tb"], "***"),
        ("x", [""], "x"),
    ],
)
def test_redact(text: str, secrets: list[str], expected: str) -> None:
    assert redact(text, secrets) == expected


def test_a_cut_text_never_shows_a_part_of_a_secret() -> None:
    secret = "correct horse battery staple"
    for before in range(150, 260):
        shown = redact(clean_text("x" * before + secret + " and more text behind it"), [secret])
        assert secret[:3] not in shown


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (Status("t", "NO", "NONEXISTENT", text="x"), FolderGoneError),
        (Status("t", "NO", "TRYCREATE", text="x"), FolderGoneError),
        (Status("t", "NO", None, text="Unknown Mailbox: x"), FolderGoneError),
        (Status("t", "NO", "NOPERM", text="does not exist for you"), ServerError),
        (Status("t", "BAD", None, text="no such command"), ServerError),
        (Status("t", "NO", "INUSE", text="x"), ThrottledError),
    ],
)
def test_why_a_folder_does_not_open(status: Status, error: type[Exception]) -> None:
    assert type(open_error(status, "EXAMINE")) is error


def test_commands_and_goodbyes() -> None:
    refused = command_error(Status("t", "NO", "OVERQUOTA", text="full"), "APPEND")
    assert isinstance(refused, ServerError)
    assert refused.code == "OVERQUOTA"
    assert str(refused) == "APPEND was answered NO: full"
    assert type(bye_error(Status(None, "BYE", text="idle for too long"))) is NetworkError
    assert type(bye_error(Status(None, "BYE", "UNAVAILABLE", text="x"))) is ThrottledError
    limits = "Account exceeded command or bandwidth limits."
    assert type(bye_error(Status(None, "BYE", "OVERQUOTA", text=limits))) is ThrottledError
    assert type(command_error(Status("t", "NO", "OVERQUOTA", text=limits), "UID FETCH")) is ThrottledError


# Dates


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (b"01-Jan-1970 00:00:00 +0000", 0),
        (b" 1-Jan-1970 00:00:00 +0000", 0),
        (b"1-jan-1970 00:00:00 +0000", 0),
        (b"01-Jan-1970 00:00:00 -0000", 0),
        (b"01-Jan-1970 01:00:00 +0100", 0),
        (b"31-Dec-1969 23:29:59 -0030", -1),
        (b"29-Feb-2024 23:59:59 +1400", 1709200799),
        (b"30-Jun-2012 23:59:60 +0000", 1341100800),
        (b"01-Jan-0001 00:00:00 +2359", -62135683140),
        (b"31-Dec-9999 23:59:59 -2359", 253402387139),
    ],
)
def test_internal_date(text: bytes, seconds: int) -> None:
    assert parse_internal_date(text) == seconds * 1_000_000


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"NIL",
        b"29-Feb-2023 00:00:00 +0000",
        b"00-Jan-2023 00:00:00 +0000",
        b"32-Jan-2023 00:00:00 +0000",
        b"01-Foo-2023 00:00:00 +0000",
        b"01-Jan-0000 00:00:00 +0000",
        b"01-Jan-2023 24:00:00 +0000",
        b"01-Jan-2023 00:60:00 +0000",
        b"01-Jan-2023 00:00:61 +0000",
        b"01-Jan-2023 00:00:00 +2400",
        b"01-Jan-2023 00:00:00 +0060",
        b"01-Jan-2023 00:00:00",
        b"01-Jan-23 00:00:00 +0000",
        b"01-Jan-2023 00:00:00 +0000 ",
        b"001-Jan-2023 00:00:00 +0000",
        b"01-Jan-2023 00:00:00 GMT",
        b"\xb2-Jan-2023 00:00:00 +0000",
    ],
)
def test_a_date_that_is_none(text: bytes) -> None:
    assert parse_internal_date(text) is None


def test_search_date() -> None:
    assert format_search_date(date(2026, 2, 7)) == "7-Feb-2026"
    assert format_search_date(date(999, 12, 31)) == "31-Dec-0999"


# Names and folders


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("INBOX", b"INBOX"),
        ("Entwürfe", b"Entw&APw-rfe"),
        ("~peter/mail/台北/日本語", b"~peter/mail/&U,BTFw-/&ZeVnLIqe-"),  # RFC 3501 §5.1.3
        ("a & b", b"a &- b"),
        ("☺!", b"&Jjo-!"),
        ("\U0001f4e7", b"&2D3c5w-"),
        ("tab\tbell\a", b"tab&AAk-bell&AAc-"),
    ],
)
def test_modified_utf7(name: str, raw: bytes) -> None:
    assert encode_name(name) == raw
    assert decode_name(raw) == name


def test_lone_surrogates_are_no_name() -> None:
    with pytest.raises(ValueError, match="surrogate"):
        encode_name("\ud800")


def item(name: str, *attributes: str, delimiter: str | None = "/") -> ListItem:
    return ListItem(frozenset(attributes), delimiter, encode_name(name))


def uses(*items: ListItem) -> dict[str, SpecialUse]:
    found = {folder.name: folder.special_use for folder in folders_of(items)}
    return {name: use for name, use in found.items() if use is not None and use is not SpecialUse.INBOX}


def test_folders_inbox_first_each_once() -> None:
    found = folders_of([item("b"), item("a"), item("Inbox"), item("a", "\\subscribed"), item("Z", "\\noselect")])
    assert [(f.name, f.selectable) for f in found] == [("INBOX", True), ("Z", False), ("a", True), ("b", True)]
    assert found[0].special_use is SpecialUse.INBOX
    assert found[2].attributes == {"\\subscribed"}


def test_attributes_decide() -> None:
    assert uses(
        item("Sent"), item("Gesendet", "\\sent"), item("x", "\\marked", "\\trash"), item("[Gmail]/Alles", "\\all")
    ) == {"Gesendet": SpecialUse.SENT, "x": SpecialUse.TRASH, "[Gmail]/Alles": SpecialUse.ALL}  # fmt: skip


def test_flags_of_messages_are_no_uses_of_folders() -> None:
    """Twisted lists them; as views of other folders none would be looked at."""
    flags = ("\\seen", "\\answered", "\\flagged", "\\deleted", "\\draft", "\\*")
    assert uses(item("Work", *flags), item("Sent", *flags)) == {"Sent": SpecialUse.SENT}


def test_the_same_use_twice_by_attribute_is_kept_twice() -> None:
    assert uses(item("a", "\\archive"), item("b", "\\archive")) == {"a": SpecialUse.ARCHIVE, "b": SpecialUse.ARCHIVE}


def test_of_those_with_one_use_the_names_that_mean_it_have_it() -> None:
    """As Cyrus has it once in a while: an ordinary folder gets the use of another one as well."""
    assert uses(item("Archive", "\\archive"), item("Stars", "\\archive"), item("Bin", "\\flagged")) == {
        "Archive": SpecialUse.ARCHIVE,
        "Bin": SpecialUse.FLAGGED,
    }
    both = {"Sent": SpecialUse.SENT, "Gesendet": SpecialUse.SENT}
    assert uses(item("Sent", "\\sent"), item("Gesendet", "\\sent"), item("A/Sent", "\\sent")) == both


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("Sent", SpecialUse.SENT),
        ("SENT ITEMS", SpecialUse.SENT),
        ("Gesendet", SpecialUse.SENT),
        ("Envoyés", SpecialUse.SENT),
        ("Отправленные", SpecialUse.SENT),
        ("Đã gửi", SpecialUse.SENT),
        ("Posta inviata", SpecialUse.SENT),
        ("送信済み", SpecialUse.SENT),
        ("Papelera", SpecialUse.TRASH),
        ("Корзина", SpecialUse.TRASH),
        ("Удалённые", SpecialUse.TRASH),
        ("Deleted Items", SpecialUse.TRASH),
        ("Entwürfe", SpecialUse.DRAFTS),
        ("Brouillons", SpecialUse.DRAFTS),
        ("Junk E-Mail", SpecialUse.JUNK),
        ("Спам", SpecialUse.JUNK),
        ("Archiv", SpecialUse.ARCHIVE),
        ("INBOX/Sent", SpecialUse.SENT),
        ("[Gmail]/Papierkorb", SpecialUse.TRASH),
    ],
)
def test_names_are_the_fallback(name: str, use: SpecialUse) -> None:
    assert uses(item("INBOX"), item(name), item("Projects")) == {name: use}


@pytest.mark.parametrize(
    "name", ["Projects/Sent", "a/b/Sent", "Sentinel", "Todos", "All Mail", "Important", "🙂", "___"]
)
def test_names_that_mean_nothing(name: str) -> None:
    assert uses(item(name)) == {}


def test_among_several_names_the_best_alone_is_taken() -> None:
    assert uses(item("Sent Items"), item("Sent"), item("Gesendet")) == {"Sent": SpecialUse.SENT}
    assert uses(item("Sent", "\\noselect"), item("Gesendet")) == {"Gesendet": SpecialUse.SENT}


def test_names_below_the_inbox_with_another_delimiter() -> None:
    assert uses(item("INBOX.Trash", delimiter="."), item("a.b", delimiter=None)) == {"INBOX.Trash": SpecialUse.TRASH}


# Sets


def test_sets_on_the_wire() -> None:
    assert format_set([range(1, 4), range(7, 8), range(9, MAX_UID + 1)]) == "1:3,7,9:*"
    assert parse_set(b"9,1:3,5:4") == (range(1, 6), range(9, 10))


@pytest.mark.parametrize("ranges", [[], [range(3)], [range(3, 3)]])
def test_sets_that_cannot_be_sent(ranges: list[range]) -> None:
    with pytest.raises(ValueError, match=r"wire|UIDs"):
        format_set(ranges)


def test_steps_are_no_sets() -> None:
    with pytest.raises(ValueError, match="step"):
        join([range(1, 9, 2)])
