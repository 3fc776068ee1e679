"""The first words a person wrote: what a list shows below the subject."""

from __future__ import annotations

import re

_STOP = re.compile(
    r"(?:--$|_{10,}$|-{2,}\s*(?:original|forwarded|ursprüngliche|weitergeleitete|message d'origine"
    r"|mensaje original|messaggio originale|oorspronkelijk)\b)",
    re.IGNORECASE,
)
# `On Mon, 3 Nov 2026 at 10:00, Anna <anna@example.org> wrote:`, in any language: a short line with a digit that ends
# with a colon
_DIGIT = re.compile(r"\d")
_ADDRESS = re.compile(r"<?https?://\S+>?|\[(?:cid|image|https?):[^\]]*\]?")
_RULE = re.compile(r"([=*_~#+.-])\1{4,}")
_RULES = tuple((character, character * 5) for character in "=*_~#+.-")


def snippet_of(text: str, limit: int) -> str:
    """At most `limit` characters of `text` without quoted replies, signatures, rules and bare web addresses.

    When nothing else is in it, the quoted text is better than nothing.
    """
    lines = text.split("\n")
    kept: list[str] = []
    length = 0
    for number, line in enumerate(lines):
        stripped = line.strip()
        if not stripped or line[0] == ">":
            continue
        if stripped[0] in "-_" and _STOP.match(stripped):
            break
        if stripped[-1] in ":：" and _attribution(stripped) and _quote_follows(lines, number):
            continue
        kept.append(stripped)
        length += len(stripped)
        if length > 2 * limit and "://" not in stripped:
            break
    found = _squeeze(" ".join(kept), limit) or _squeeze(text[: 8 * limit].replace(">", " "), limit)
    if len(found) <= limit:
        return found
    cut = found[:limit]
    blank = cut.rfind(" ")
    return (cut[:blank] if blank > limit * 3 // 4 else cut[: limit - 1]).rstrip(" ,;:-") + "…"


def _attribution(line: str) -> bool:
    return len(line) <= 400 and _DIGIT.search(line) is not None


def _quote_follows(lines: list[str], number: int) -> bool:
    for line in lines[number + 1 : number + 4]:
        if line.strip():
            return line.lstrip().startswith(">")
    return False


def _squeeze(text: str, limit: int) -> str:
    if "://" in text or "[" in text:
        without = _ADDRESS.sub(" ", text)
        text = without if without.strip() else text
    for character, rule in _RULES:  # no any(): this runs for every message, and a generator costs
        if character in text and rule in text:
            text = _RULE.sub(" ", text)
            break
    # a little more than is shown says already that there is more: the rest need not be squeezed
    squeezed = " ".join(text[: limit + limit // 4].split())
    return squeezed if len(squeezed) > limit else " ".join(text[: 4 * limit].split())
