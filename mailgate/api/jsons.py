"""JSON as RFC 8259 has it and every parser understands alike: what one takes and another refuses, or reads otherwise,
is refused here, with what and where.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final, NoReturn

from mailgate.errors import BadRequestError

DEEPEST: Final = 64
"""So many arrays and objects may stand inside each other; no body has a tenth of it."""

_BOM = b"\xef\xbb\xbf"
_SHOWN = 60
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)
_HIGH, _LOW, _BEHIND = 0xD800, 0xDC00, 0xE000
_ESCAPED = len("\\ud800")


def read_json(body: bytes) -> Any:
    """What the body says. Raises BadRequestError `invalid_json`; its detail names no value, which may be a password."""
    if body.startswith(_BOM):
        raise _refused("it begins with a byte order mark")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _refused(f"byte {error.start + 1} is not UTF-8") from None
    if "\\" in text:
        _pairs_of_surrogates(text)
    try:
        value = json.loads(
            text, parse_constant=_constant, parse_float=_float, parse_int=_int, object_pairs_hook=_object
        )
    except json.JSONDecodeError as error:
        raise _refused(f"{error.msg}, {_place(text, error.pos)}") from None
    except RecursionError:
        raise _too_deep() from None
    if body.count(b"[") + body.count(b"{") > DEEPEST and _depth(value) > DEEPEST:
        raise _too_deep()
    return value


def _pairs_of_surrogates(text: str) -> None:
    """Each half of a pair has its other half: alone it is no character, and no text that could be stored."""
    first: int | None = None  # where a pair has begun
    for escape in _ESCAPE.finditer(text):
        code = int(escape[1], 16) if escape[1] else 0
        second = first is not None and escape.start() == first + _ESCAPED and _LOW <= code < _BEHIND
        if not second and (first is not None or _LOW <= code < _BEHIND):
            raise _lone(text, escape.start() if first is None else first)
        first = escape.start() if not second and _HIGH <= code < _LOW else None
    if first is not None:
        raise _lone(text, first)


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = Counter(name for name, _ in pairs)
        twice = next(name for name, times in names.items() if times > 1)
        raise _refused(f"{twice[:_SHOWN]!r} is given twice in one object")
    return found


def _int(written: str) -> int:
    try:
        return int(written)
    except ValueError:  # longer than sys.set_int_max_str_digits allows
        raise _too_large(written) from None


def _float(written: str) -> float:
    number = float(written)
    if math.isinf(number):
        raise _too_large(written)
    return number


def _constant(written: str) -> NoReturn:
    raise _refused(f"{written} is no number of JSON")


def _depth(value: object) -> int:
    """How many arrays and objects stand inside each other; no more than one beyond DEEPEST are looked at."""
    level: Iterable[object] = [value]
    for depth in range(DEEPEST + 2):
        held = [each for each in level if isinstance(each, (dict, list))]
        if not held:
            return depth
        level = [inner for each in held for inner in (each.values() if isinstance(each, dict) else each)]
    return DEEPEST + 1


def _place(text: str, at: int) -> str:
    line = text.count("\n", 0, at) + 1
    return f"line {line}, column {at - text.rfind(chr(10), 0, at)}"


def _lone(text: str, at: int) -> BadRequestError:
    return _refused(f"half of a surrogate pair without its other half, {_place(text, at)}")


def _too_deep() -> BadRequestError:
    return _refused(f"more than {DEEPEST} arrays and objects inside each other")


def _too_large(written: str) -> BadRequestError:
    return _refused(f"a number of {len(written)} characters that is too large")


def _refused(why: str) -> BadRequestError:
    return BadRequestError(f"the body is not JSON: {why}", slug="invalid_json")
