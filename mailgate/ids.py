"""Identifiers: ULIDs (26 characters of Crockford's base 32), 48 bits of milliseconds and 80 random bits.

They sort by time of making, so rows made together lie together; they tell nobody anything but that time.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache

from mailgate.clock import Instant

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]
_NOISE = 16
"""Characters of noise, five bits each; a random byte gives one, since translating them is quicker than cutting bits."""
_CHARACTERS = bytes(ord(_ALPHABET[byte & 31]) for byte in range(256))
ID_PATTERN = r"^[0-7][0-9A-HJKMNP-TV-Z]{25}$"
_ID = re.compile(ID_PATTERN)


def new_id(now: Instant) -> str:
    """A new id for something made at `now`."""
    return _prefix(now // 1_000) + os.urandom(_NOISE).translate(_CHARACTERS).decode()


def new_ids(now: Instant, count: int) -> list[str]:
    """So many new ids for things made together at `now`, in no order among themselves."""
    prefix = _prefix(now // 1_000)
    noise = os.urandom(_NOISE * count).translate(_CHARACTERS).decode()
    return [prefix + noise[at : at + _NOISE] for at in range(0, _NOISE * count, _NOISE)]


def later_id(now: Instant, last: str) -> str:
    """A new id that sorts behind `last` if both are of the same millisecond."""
    made = new_id(now)
    if made[:10] != last[:10] or made > last:
        return made
    noise = 0
    for character in last[10:]:
        noise = noise << 5 | _ALPHABET.index(character)
    noise = min(noise + 1, (1 << 80) - 1)
    return last[:10] + "".join(_ALPHABET[noise >> shift & 31] for shift in range(75, -1, -5))


@lru_cache(maxsize=4)
def _prefix(milliseconds: int) -> str:
    """The first ten characters."""
    value = milliseconds & ((1 << 48) - 1)
    return "".join([_PAIRS[value >> shift & 1023] for shift in range(40, -1, -10)])


def is_id(text: str) -> bool:
    """Whether the text has the form of an id."""
    return _ID.match(text) is not None


def new_ref() -> str:
    """A random reference of 128 bits in hex that says nothing, not even a time: what the purge log calls things by."""
    return os.urandom(16).hex()


def made_at(id_: str) -> Instant:
    """When an id was made, to the millisecond. Raises ValueError for what is no id."""
    if not is_id(id_):
        raise ValueError(f"not an id: {id_[:40]!r}")
    milliseconds = 0
    for character in id_[:10]:
        milliseconds = milliseconds << 5 | _ALPHABET.index(character)
    return milliseconds * 1_000
