"""The words that a client may ask for: flags, labels, names of folders. Pure; what can't be is a PreconditionError.

Flags are those of RFC 9051 §2.3.2: four system flags, and keywords that are atoms. `\\Deleted` is none of them: it is a
step of removing, and `\\Recent` belongs to the server. Names of folders are checked before they get to a server, so
that what is asked for can be said on the wire and comes back as it was (RFC 9051 §5.1, RFC 5198 §2).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from mailgate.errors import PreconditionError

FLAG_LENGTH: Final = 100
_FLAG_WORD = rf"(\\(Seen|Answered|Flagged|Draft)|[!#$&'+,./0-9:;<=>?@A-Z\[^_`a-z|}}~-]{{1,{FLAG_LENGTH}}})"
FLAG_PATTERN: Final = f"^{_FLAG_WORD}$"
FLAGS_PATTERN: Final = f"^({_FLAG_WORD}( {_FLAG_WORD})*)?$"
"""Several, with a blank between them."""
FLAGS_MOST: Final = 100
"""Flags of one message that a client may bring it to, and words in one request."""

LABEL_LENGTH: Final = 225
_CONTROL = r"\x00-\x1f\x7f-\x9f"
_INSIDE = rf"[^{_CONTROL}]{{0,{LABEL_LENGTH - 2}}}"
LABEL_PATTERN: Final = rf"^(\\(Inbox|Important|Starred)|[^\\ \xa0{_CONTROL}]({_INSIDE}[^ \xa0{_CONTROL}])?)$"

NAME_LENGTH: Final = 250

_FLAG = re.compile(FLAG_PATTERN)
_LABEL = re.compile(LABEL_PATTERN)
_NOT_ASKED_FOR = {
    "\\deleted": "\\Deleted is a step of removing: use DELETE on the message",
    "\\recent": "\\Recent is the server's own",
}
_CONTROLS = frozenset({"Cc", "Cs", "Zl", "Zp"})
_MARKS = ("\u2063", "\u2064")  # connectors.imap.utf7 keeps names under them that are no modified UTF-7


@dataclass(frozen=True, slots=True)
class Words:
    """A change of a set of words: flags or labels."""

    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()

    def applied_to(self, words: Collection[str]) -> tuple[list[str], Words]:
        """The set afterwards, sorted, and what of the change makes a difference. Flags and labels are told apart
        without regard to case, as servers do; a word that stands keeps its spelling.
        """
        standing = {word.lower(): word for word in words}
        removed = {standing[word.lower()] for word in self.remove if word.lower() in standing}
        added = {word for word in self.add if word.lower() not in standing}
        left = set(words) - removed
        return sorted(left | added), Words(tuple(sorted(added)), tuple(sorted(removed)))

    @property
    def nothing(self) -> bool:
        """Whether it asks for nothing."""
        return not self.add and not self.remove


def flags(add: Iterable[str], remove: Iterable[str] = ()) -> Words:
    """A change of flags. Raises PreconditionError `flag_invalid`."""
    return _checked(Words(_unique(add), _unique(remove)), _check_flag, "flag")


def labels(add: Iterable[str], remove: Iterable[str] = ()) -> Words:
    """A change of labels. Raises PreconditionError `label_invalid`."""
    return _checked(Words(_unique(add), _unique(remove)), _check_label, "label")


def folder_name(name: str, delimiter: str | None) -> str:
    """The name as servers keep it: NFC, and INBOX above others in capitals, for `Inbox/A` is `INBOX/A` at a server
    and would become two folders here (RFC 9051 §5.1). Raises PreconditionError `name_invalid` that says what is wrong.
    """
    name = unicodedata.normalize("NFC", name)
    levels = name.split(delimiter) if delimiter else [name]
    if len(levels) > 1 and levels[0].isascii() and levels[0].upper() == "INBOX":
        name = name.replace(levels[0], "INBOX", 1)
    fault = None
    if not 0 < len(name) <= NAME_LENGTH:
        fault = f"it must have 1 to {NAME_LENGTH} characters"
    elif any(unicodedata.category(char) in _CONTROLS for char in name):
        fault = "it has a control character"
    elif name.startswith(_MARKS):
        fault = "it begins with an invisible character"
    elif "*" in name or "%" in name:
        fault = "* and % stand for other names in IMAP"
    elif any(not level or level != level.strip() for level in levels):
        fault = "a level of it is empty, or begins or ends with a blank"
        fault += f" (levels are separated by {delimiter})" if delimiter else ""
    if fault is not None:
        raise PreconditionError(f"a folder can't be called that: {fault}", slug="name_invalid")
    return name


def _unique(words: Iterable[str]) -> tuple[str, ...]:
    """Each once, without regard to case; the first spelling counts."""
    found: dict[str, str] = {}
    for word in words:
        found.setdefault(word.lower(), word)
    return tuple(found.values())


def _checked(change: Words, check: Callable[[str], None], kind: str) -> Words:
    both = sorted({word.lower() for word in change.add} & {word.lower() for word in change.remove})
    if both:
        raise PreconditionError(f"{both[0]!r} can't be added and removed at once", slug=f"{kind}_invalid")
    if len(change.add) + len(change.remove) > FLAGS_MOST:
        raise PreconditionError(f"more than {FLAGS_MOST} at once", slug=f"{kind}_invalid")
    for word in (*change.add, *change.remove):
        check(word)
    return change


def _check_flag(flag: str) -> None:
    if _FLAG.fullmatch(flag):
        return
    if flag.startswith("\\"):
        why = _NOT_ASKED_FOR.get(flag.lower(), "of system flags there are \\Seen, \\Answered, \\Flagged and \\Draft")
    else:
        why = f'a keyword is 1 to {FLAG_LENGTH} printable ASCII characters without blanks and without ( ) {{ % * " \\ ]'
    raise PreconditionError(f"{flag[:FLAG_LENGTH]!r} is no flag to ask for: {why}", slug="flag_invalid")


def _check_label(label: str) -> None:
    if _LABEL.fullmatch(label):
        return
    why = f"1 to {LABEL_LENGTH} characters without control characters, or \\Inbox, \\Important, \\Starred"
    raise PreconditionError(f"{label[:LABEL_LENGTH]!r} is no label to ask for: {why}", slug="label_invalid")


def check_number(words: Sequence[str]) -> None:
    """Raise PreconditionError when a message would have more flags, or labels, than can be."""
    if len(words) > FLAGS_MOST:
        raise PreconditionError(f"a message can have {FLAGS_MOST} flags and {FLAGS_MOST} labels", slug="too_many_flags")
