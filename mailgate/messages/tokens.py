"""Search terms of a message: what is indexed, and what a query becomes. Both sides run through the same functions.

A term is one folded word: NFKC, case folded, accents of Latin, Greek, Cyrillic, Hebrew and Arabic letters taken off.
Words of scripts that are written without blanks (Chinese, Japanese, Thai, Lao, Khmer, Burmese) become single
characters and pairs of neighbours. The store turns terms into keyed tokens (HMAC) before it writes them; no word
stands in the index.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from mailgate.messages.model import Address, ParsedMessage

WORD_LIMIT = 64
TERMS_LIMIT = 20_000

_ACCENTS = re.compile("[\u0300-\u036f\u0483-\u0489\u0591-\u05c7\u064b-\u065f\u0670\u0640\u200b-\u200f\u00ad\ufeff]+")
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9f\U00020000-\U0003ffff"
)
# combining signs belong to their word in the scripts of India and South-East Asia, where Python's \w leaves them out
_SIGNS = "".join(chr(code) for code in range(0x0900, 0x1C00) if unicodedata.category(chr(code)) in ("Mn", "Mc"))
_WORD = re.compile(rf"[^\W_](?:[\w{_SIGNS}]|['’·](?=[^\W_]))*")
_ASCII_WORD = re.compile(r"[a-z0-9]++(?:[a-z0-9_]|'(?=[a-z0-9]))*+")
_RUN = re.compile(rf"[{_UNSPACED}]+")
_APOSTROPHE = re.compile("['’·_]")
_PIECE = re.compile(r"[^@.+_\-\s<>\"]+")


@dataclass(frozen=True, slots=True)
class MessageTerms:
    """The terms of a message by the field that a search names. `text` covers everything, the other fields included."""

    from_: frozenset[str]
    to: frozenset[str]
    subject: frozenset[str]
    text: frozenset[str]


def fold(text: str) -> str:
    """The form in which words are compared."""
    if text.isascii():
        return text.lower()
    folded = unicodedata.normalize("NFD", unicodedata.normalize("NFKC", text).casefold())
    return unicodedata.normalize("NFC", _ACCENTS.sub("", folded))


def words(text: str) -> list[str]:
    """The terms of a text in order, with repetitions."""
    folded = fold(text)
    if folded.isascii():
        found = _ASCII_WORD.findall(folded)
        if "_" in folded or "'" in folded or len(max(found, key=len, default="")) > WORD_LIMIT:
            return [_APOSTROPHE.sub("", word)[:WORD_LIMIT] for word in found]
        return found
    terms: list[str] = []
    for word in _WORD.findall(folded):
        if not _RUN.search(word):
            terms.append(_APOSTROPHE.sub("", word)[:WORD_LIMIT])
            continue
        at = 0
        for run in _RUN.finditer(word):
            if run.start() > at:
                terms.append(word[at : run.start()][:WORD_LIMIT])
            terms += run[0]
            terms += map("".join, pairwise(run[0]))
            at = run.end()
        if at < len(word):
            terms.append(word[at:][:WORD_LIMIT])
    return terms


def address_terms(addresses: Iterable[Address]) -> Iterator[str]:
    """The terms of addresses: whole, domain, every piece of it, and the words of the display name."""
    for item in addresses:
        address = fold(item.address)
        if address:
            yield address
            local, _, domain = address.rpartition("@")
            if local:
                yield local[:WORD_LIMIT]
            yield domain
            for piece in _PIECE.findall(address):
                yield piece[:WORD_LIMIT]
        yield from words(item.name)


def message_terms(message: ParsedMessage, *, limit: int = TERMS_LIMIT) -> MessageTerms:
    """All terms of a message, at most `limit` different ones in `text` (names and subject first, then the text from
    its start).
    """
    sender = frozenset(address_terms((*message.from_, *message.sender, *message.reply_to)))
    to = frozenset(address_terms((*message.to, *message.cc, *message.bcc)))
    subject = frozenset(words(message.subject))
    everything = set(sender | to | subject)
    for part in message.parts:
        if part.filename:
            everything.update(words(part.filename))
    found = dict.fromkeys(words(message.text))
    if len(everything) + len(found) <= limit:
        everything.update(found)
    else:
        for word in found:
            if len(everything) >= limit:
                break
            everything.add(word)
    return MessageTerms(sender, to, subject, frozenset(everything))


def query_terms(query: str) -> frozenset[str]:
    """The terms that a message must all have to match a query of words; empty when the query holds no word.

    A piece with an `@` is an address (whole, or with nothing before or after the `@`). Of unspaced scripts only the
    pairs count.
    """
    terms: set[str] = set()
    for piece in query.split():
        if "@" in piece and (address := fold(piece.strip("<>\"',;()")).strip("@")):
            terms.add(address)
            continue
        found = list(words(piece))
        terms.update(found if len(found) == 1 else _without_singles(found))
    return frozenset(terms)


def _without_singles(found: list[str]) -> list[str]:
    """Of a run of an unspaced script the pairs say it all; a single character stays only when it stands alone."""
    pairs = [term for term in found if len(term) == 2 and _RUN.fullmatch(term)]
    covered = set("".join(pairs))
    return [term for term in found if not (len(term) == 1 and term in covered)]
