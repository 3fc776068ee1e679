"""Looking for words in files, whatever wrote them: in clear, in capitals, and in forms that mail and databases give
text.
"""

from __future__ import annotations

import base64
import itertools
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

_CHUNK = 8 << 20
_ALPHABET = "bcdfghjkmnpqrtvwxz"


def canaries(places: Iterable[str]) -> dict[str, str]:
    """A word for each place that nothing else contains: letters only, so that no parser splits it. They begin alike, so
    that one look tells whether any of them is there.
    """
    stem = _letters(16)
    return {place: stem + _letters(8) for place in places}


def _letters(count: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(count))


def forms(word: str) -> tuple[set[bytes], set[bytes]]:
    """What to look for: (in bytes whose letters were made small, in bytes as they are)."""
    small = word.lower()
    folded = {small.encode(), small.encode("utf-16-le"), small.encode("utf-16-be"), small.encode().hex().encode()}
    exact = set[bytes]()
    for text in (word, word.lower(), word.upper()):
        for shift in range(3):  # base64 of a text depends on where in a group of three bytes it begins
            encoded = base64.b64encode(b"\0" * shift + text.encode())
            exact.add(encoded[-(-shift * 8 // 6) + (shift > 0) : -4])
    return folded, exact


def find(words: Iterable[str], places: Iterable[Path]) -> dict[str, set[Path]]:
    """The files below these places that hold one of the words, by word. Files that go while they are read are left
    out.
    """
    wanted = {word: forms(word) for word in words}
    stem = forms("".join(letters[0] for letters in itertools.takewhile(_alike, zip(*wanted, strict=False))))
    found: dict[str, set[Path]] = {word: set() for word in wanted}
    for path in _files(places):
        for chunk in _chunks(path):
            folded = chunk.lower()
            if not _holds(stem, folded, chunk):
                continue
            for word, of_word in wanted.items():
                if _holds(of_word, folded, chunk):
                    found[word].add(path)
    return found


def _alike(letters: tuple[str, ...]) -> bool:
    return len(set(letters)) == 1


def _holds(wanted: tuple[set[bytes], set[bytes]], folded: bytes, chunk: bytes) -> bool:
    return any(form in folded for form in wanted[0]) or any(form in chunk for form in wanted[1])


def _files(places: Iterable[Path]) -> Iterator[Path]:
    for place in places:
        yield from ([place] if place.is_file() else (path for path in place.rglob("*") if path.is_file()))


def _chunks(path: Path) -> Iterator[bytes]:
    """The bytes of a file in pieces, each beginning with the end of the one before."""
    try:
        with path.open("rb") as file:
            kept = b""
            while chunk := file.read(_CHUNK):
                yield kept + chunk
                kept = chunk[-512:]
    except FileNotFoundError:
        return
