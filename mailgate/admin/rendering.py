"""Templates: everything that is put into one is escaped, and a name that is not there is an error."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mailgate.admin import details
from mailgate.admin.languages import Language, language
from mailgate.clock import Instant, to_rfc3339

_LONGEST_NAME = 200
_HERE = Path(__file__).parent
TEMPLATES = _HERE / "templates"
STATIC = _HERE / "static"
TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


@functools.cache
def assets() -> dict[str, tuple[bytes, str]]:
    """The files that pages ask for: bytes and a digest of them, by name."""
    files = sorted(path for path in STATIC.iterdir() if path.suffix in TYPES)
    return {path.name: (data := path.read_bytes(), hashlib.sha256(data).hexdigest()[:12]) for path in files}


@functools.cache
def environment(code: str) -> Environment:
    """The templates in a language."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.i18n"],
    )
    words = language(code)
    made.install_gettext_translations(words.translations, newstyle=True)  # type: ignore[attr-defined]  # the extension brings it
    made.filters |= {
        "number": words.number,
        "percent": words.percent,
        "size": words.size,
        "moment": words.moment,
        "day": words.day,
        "lasting": words.lasting,
        "said": words.text,
        "detail": functools.partial(details.detail, words),
        "brief": _brief,
        "when": functools.partial(_when, words),
        "exactly": functools.partial(_exactly, words),
    }
    made.globals |= {"asset": _asset, "lang": words.code, "money": words.money, "ago": functools.partial(_ago, words)}
    return made


def render(code: str, template: str, **values: Any) -> str:
    """A page, or a part of one."""
    return environment(code).get_template(template).render(**values)


def _asset(name: str) -> str:
    return f"/admin/static/{name}?{assets()[name][1]}"


def _when(words: Language, at: Instant) -> Markup:
    return Markup('<time datetime="{}">{}</time>').format(to_rfc3339(at), words.moment(at))


def _brief(text: str) -> str:
    """A name of others' making, as far as it helps: servers may call a folder by a hundred thousand letters."""
    return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}…"


def _exactly(words: Language, at: Instant) -> Markup:
    return Markup('<time datetime="{}">{}</time>').format(to_rfc3339(at), words.second(at))


def _ago(words: Language, at: Instant, now: Instant) -> Markup:
    shown = Markup('<time datetime="{0}" title="{1} UTC">{2}</time>')
    return shown.format(to_rfc3339(at), words.moment(at), words.ago(at, now))
