"""Address headers (RFC 5322 §3.4), read as people and programs write them.

Besides the grammar: display names with commas and no quotes (`Doe, John <j@x>`), encoded words with commas in them,
quotes that never close, several addresses without a comma, groups (their members count, the group's name does not),
comments as names.
"""

from __future__ import annotations

import re

from mailgate.messages.charsets import one_line
from mailgate.messages.model import Address, Limits
from mailgate.messages.words import decode_words

_TOKEN = re.compile(
    r"""
      (?P<word>=\?[^?\s]{1,80}\?[bBqQ]\?[^?]*\?=)
    | "(?P<quoted>[^"\\]*(?:\\.[^"\\]*)*)(?:"|\\?\Z)
    | <(?P<angle>[^<>]*)(?:>|\Z)
    | (?P<mark>[,;:()\\])
    | (?P<text>(?:(?!=\?)(?:\[[^\[\]\s,]{0,255}\]|[^",;:<>()\\]))+)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_SIMPLE = re.compile(r"""\s*+(?:"([^"\\=]*+)"\s*+|([^",;:<>()\\@=]*+))<([^\s<>@",:;()]++@[^\s<>@",:;()]++)>\s*+""")
_BARE = re.compile(r"""\s*+([^\s<>@",:;()]++@[^\s<>@",:;()\[\]]++)\s*+""")
_ADDRESS = re.compile(r"""[^\s"<>]+@[^\s"<>]+|"[^"]*"@[^\s<>]+""")
_AT = re.compile(r"\s*@\s*")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_SPACE = re.compile(r"\s+")


def parse_addresses(value: str, limits: Limits, guess: str | None = None) -> tuple[Address, ...]:
    """The mailboxes of an unfolded header value, in order, at most `limits.addresses`."""
    pieces = [value] if '"' in value else value.split(",", limits.addresses)
    plain = [_plain(piece, limits) for piece in pieces]
    if None not in plain:
        return tuple(item for item in plain if item is not None)[: limits.addresses]
    found = _Reader(limits, guess).read(value)
    if value.count('"') % 2 and not any(item.address for item in found):
        found = _Reader(limits, guess).read(value.replace('"', " "))
    return tuple(found)


def _plain(piece: str, limits: Limits) -> Address | None:
    """An address in one of the two forms that nearly all have; None when it takes a closer look."""
    if match := _SIMPLE.fullmatch(piece):
        name, address = match[1] or match[2] or "", match[3]
        return Address(one_line(name, limits.name), address) if len(address) <= limits.address else None
    if match := _BARE.fullmatch(piece):
        return Address("", match[1]) if len(match[1]) <= limits.address else None
    return None


class _Reader:
    def __init__(self, limits: Limits, guess: str | None) -> None:
        self._limits = limits
        self._guess = guess
        self._found: list[Address] = []
        self._words: list[str] = []
        self._comments: list[str] = []
        self._angle: str | None = None
        self._carried: list[str] = []

    def read(self, value: str) -> list[Address]:
        depth = 0
        for match in _TOKEN.finditer(value):
            if len(self._found) >= self._limits.addresses:
                return self._found
            kind, text = match.lastgroup, match[0]
            if depth or (kind == "mark" and text == "("):
                if text == "(" and kind == "mark":
                    depth += 1
                elif text == ")" and kind == "mark":
                    depth -= 1
                else:
                    self._comments.append(text)
            elif kind == "angle":
                if self._angle is not None:  # a second address without a comma between them
                    self._end(",")
                self._angle = match["angle"]
            elif kind == "quoted":
                if self._angle is not None:
                    self._end(",")
                self._words.append(
                    _ESCAPE.sub(r"\1", match["quoted"]) if not self._in_local_part(value, match.end()) else text
                )
            elif kind == "mark" and text in ",;":
                self._end(text)
            elif kind == "mark" and text == ":":
                if self._angle is None:
                    self._words.clear()  # it was the name of a group
                    self._carried.clear()
            elif text.strip() and not (kind == "mark" and text == ")"):
                if self._angle is not None:
                    self._end(",")
                self._words.append(text)
        self._end(";")
        return self._found[: self._limits.addresses]

    @staticmethod
    def _in_local_part(value: str, end: int) -> bool:
        return value[end : end + 1] == "@"

    def _end(self, mark: str) -> None:
        words, angle, comments = self._words, self._angle, self._comments
        self._words, self._angle, self._comments = [], None, []
        if angle is not None:
            self._add([*self._carried, *words], angle, comments)
            self._carried = []
            return
        # an address that is longer than this is none; and what follows looks at every character several times
        text = " ".join(words)[: 2 * self._limits.name + self._limits.address].strip()
        match = _ADDRESS.search(text) or ("@" in text and _ADDRESS.search(text := _AT.sub("@", text))) or None
        if match is not None:
            self._flush_carried()
            rest = f"{text[: match.start()]} {text[match.end() :]}"
            self._add([rest.replace("<", " ").replace(">", " ")], match[0], comments)
        elif text and mark == ",":
            self._carried += [*words, ","]  # perhaps `Doe, John <j@x>` without quotes
        elif text:
            self._carried += words
            self._flush_carried()
        else:
            if mark == ";":
                self._flush_carried()

    def _flush_carried(self) -> None:
        carried, self._carried = self._carried, []
        if carried:
            name = self._name(carried)
            if name:
                self._found.append(Address(name, ""))

    def _add(self, words: list[str], address: str, comments: list[str]) -> None:
        address = one_line(address, 2 * self._limits.address).strip("'")
        if '"' not in address:
            address = _SPACE.sub("", address)
        if address.lower().startswith("mailto:"):
            address = address[7:]
        name = self._name(words) or self._name(comments)
        if len(address) > self._limits.address:
            address = ""
        if name or address:
            self._found.append(Address(name, address))

    def _name(self, words: list[str]) -> str:
        text = decode_words(" ".join(words), self._guess).strip()
        text = one_line(text, self._limits.name).replace(" ,", ",").strip(", ")
        if len(text) > 1 and text[0] == text[-1] == "'":
            text = text[1:-1].strip()
        return text
