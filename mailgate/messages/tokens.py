"""Search terms of a message: what is indexed, and what a query becomes. Both sides run through the same functions.

A term is one folded word: NFKC, case folded, accents of Latin, Greek, Cyrillic, Hebrew and Arabic letters taken off.
Words of scripts that are written without blanks (Chinese, Japanese, Thai, Lao, Khmer, Burmese) become single
characters and pairs of neighbours. The store turns terms into keyed tokens (HMAC) before it writes them; no word
stands in the index.

The beginnings of words (prefixes of up to LONGEST characters, the whole word among them) are terms of their own
kind, so that a query `invo*` asks for one of them exactly; of an address they are counted after its `@`. Words of
unspaced scripts have none: their characters and pairs are found anywhere already.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice, pairwise

from mailgate.errors import PreconditionError
from mailgate.messages.model import Address, ParsedMessage

WORD_LIMIT = 64
TERMS_LIMIT = 20_000
HEADER_TERMS_LIMIT = 5_000
"""Different terms of `text`, and of each of the other fields."""
SHORTEST, LONGEST = 2, 12
"""The characters of a prefix. One in plain Latin letters and digits has SHORTEST_LATIN: two say too little there."""
SHORTEST_LATIN = 3
PREFIXES_LIMIT = 20_000
HEADER_PREFIXES_LIMIT = 2_000
"""Different prefixes of `text`, and of each of the other fields: a `tsvector` has room for 65 000 tokens."""

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
_AROUND = "<>\"',.;:!?()[]“”„«»‘’"
_STARS = "*\uff0a"


@dataclass(frozen=True, slots=True)
class MessageTerms:
    """The terms of a message by the field that a search names. `text` covers everything, the other fields included.
    `prefixes`: the beginnings of each field's terms, by the same names.
    """

    from_: frozenset[str]
    to: frozenset[str]
    subject: frozenset[str]
    text: frozenset[str]
    prefixes: Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class QueryTerms:
    """What a message must all have to match a query: whole words, and words that begin with the prefixes."""

    words: frozenset[str]
    prefixes: frozenset[str]

    def __bool__(self) -> bool:
        return bool(self.words or self.prefixes)


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
            yield from words(address)
        yield from words(item.name)


def prefixes(terms: Iterable[str]) -> Iterator[str]:
    """The prefixes of terms, in their order, with repetitions."""
    for term in terms:
        local, at, domain = term.rpartition("@")
        if at:
            local = local[:WORD_LIMIT]
            for length in range(1, min(len(domain), LONGEST) + 1):
                yield f"{local}@{domain[:length]}"
                yield f"@{domain[:length]}"
        elif not _RUN.match(term):
            for length in range(_shortest(term), min(len(term), LONGEST) + 1):
                yield term[:length]


def _shortest(term: str) -> int:
    return SHORTEST_LATIN if term[:SHORTEST].isascii() else SHORTEST


def message_terms(message: ParsedMessage, *, limit: int = TERMS_LIMIT) -> MessageTerms:
    """All terms of a message, at most `limit` different ones in `text` (names and subject first, then the text from
    its start), and as many prefixes as are allowed, in that order too.
    """
    sender = _first(address_terms((*message.from_, *message.sender, *message.reply_to)), HEADER_TERMS_LIMIT)
    to = _first(address_terms((*message.to, *message.cc, *message.bcc)), HEADER_TERMS_LIMIT)
    subject = _first(words(message.subject), HEADER_TERMS_LIMIT)
    files = (word for part in message.parts if part.filename for word in words(part.filename))
    everything = _first(chain(sender, to, subject, files, words(message.text)), limit)
    begun = {
        field: frozenset(_first(prefixes(terms), HEADER_PREFIXES_LIMIT))
        for field, terms in (("from_", sender), ("to", to), ("subject", subject))
    }
    begun["text"] = frozenset(_first(prefixes(everything), PREFIXES_LIMIT))
    return MessageTerms(frozenset(sender), frozenset(to), frozenset(subject), frozenset(everything), begun)


def _first(terms: Iterable[str], most: int) -> dict[str, None]:
    """The first different ones, in order."""
    rest = iter(terms)
    found = dict.fromkeys(islice(rest, most))
    for term in rest:
        if len(found) >= most:
            break
        found[term] = None
    return found


def query_terms(query: str) -> QueryTerms:
    """What a message must have to match a query of words; empty when the query holds no word.

    A piece with an `@` is an address (whole, or with nothing before or after the `@`). Of unspaced scripts only the
    pairs count. A star at a piece's end makes a prefix of its last word. Raises PreconditionError (`prefix_invalid`)
    for one that is shorter or longer than those that are indexed.
    """
    terms: set[str] = set()
    begun: set[str] = set()
    for given in query.split():
        piece = given.strip(_AROUND)
        starred = piece.endswith(tuple(_STARS))
        piece = piece.strip(_AROUND + _STARS)
        if "@" in piece and (address := fold(piece)).strip("@"):
            domain = address.rpartition("@")[2]
            if starred and domain:
                begun.add(_address_prefix(address))
            else:
                terms.add(address.strip("@"))
            continue
        found = words(piece)
        if starred and found and not _RUN.match(found[-1]):
            begun.add(_checked(found[-1], _shortest(found.pop())))
        terms.update(found if len(found) == 1 else _without_singles(found))
    return QueryTerms(frozenset(terms), frozenset(begun))


def _address_prefix(address: str) -> str:
    local, _, domain = address.rpartition("@")
    return f"{local[:WORD_LIMIT]}@{_checked(domain, 1)}"


def _checked(prefix: str, least: int) -> str:
    if least <= len(prefix) <= LONGEST:
        return prefix
    raise PreconditionError(
        f"a star needs {SHORTEST_LATIN} to {LONGEST} letters of a word before it ({SHORTEST} of scripts other than "
        f"Latin), or 1 to {LONGEST} after an @",
        slug="prefix_invalid",
    )


def _without_singles(found: list[str]) -> list[str]:
    """Of a run of an unspaced script the pairs say it all; a single character stays only when it stands alone."""
    pairs = [term for term in found if len(term) == 2 and _RUN.fullmatch(term)]
    covered = set("".join(pairs))
    return [term for term in found if not (len(term) == 1 and term in covered)]
