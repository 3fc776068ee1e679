"""All texts of the pages that are shown in the reader's language, as the catalogues must have them.

python -m tests.unit.admin.texts     writes what is missing into the catalogues, to be translated
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import BinaryIO

from babel.messages.catalog import Catalog
from babel.messages.extract import extract
from babel.messages.pofile import read_po, write_po
from jinja2.ext import babel_extract

from mailgate.admin.languages import ENGLISH, FOLDER, LANGUAGES
from mailgate.admin.rendering import TEMPLATES

OTHERS = [code for code in LANGUAGES if code != ENGLISH]

Text = str | tuple[str, str]


def texts() -> dict[Text, str]:
    """Every text, with the file in which it stands first; a pair: one and many."""
    found: dict[Text, str] = {}
    for path in sorted(TEMPLATES.glob("*.html")):
        with path.open("rb") as file:
            for text in _in_template(file):
                found.setdefault(text, f"templates/{path.name}")
    for path in [*sorted(FOLDER.parent.glob("*.py")), FOLDER.parents[1] / "usecases/remedies.py"]:
        with path.open("rb") as file:
            for _, message, _, _ in extract("python", file, {"marked": None, "text": None}):
                if isinstance(message, str) and message:
                    found.setdefault(message, path.name)
    return found


def _in_template(file: BinaryIO) -> Iterator[Text]:
    options = {"trimmed": "true", "silent": "false", "trim_blocks": "true", "lstrip_blocks": "true"}
    for _, function, message, _ in babel_extract(file, ("_", "gettext", "ngettext"), [], options):
        if function == "ngettext":
            one, many = [part for part in message if part][:2]
            yield (str(one), str(many))
        else:
            yield str(message if isinstance(message, str) else message[0])


def catalogue(code: str) -> Catalog:
    """The catalogue as it stands in its file."""
    path = FOLDER / f"{code}.po"
    if not path.exists():
        return Catalog(locale=code, fuzzy=False)
    with path.open("rb") as file:
        return read_po(file, locale=code)


def placeholders(text: str) -> set[str]:
    """What is put into a text."""
    return set(re.findall(r"%\(\w+\)s", text))


_HEAD = re.compile(rb'^(#.*|"(Project|Report|POT|PO-|Last|Language-Team|Generated).*)\n', re.MULTILINE)


def written(catalog: Catalog) -> bytes:
    """The catalogue's file: of the head only what readers need, so that nothing changes but texts."""
    out = io.BytesIO()
    write_po(out, catalog, width=0)
    head, gap, rest = out.getvalue().lstrip(b"\n").partition(b"\n\n")
    return (_HEAD.sub(b"", head) + gap + rest).lstrip(b"\n")


def main() -> None:
    for code in OTHERS:
        old, new = catalogue(code), Catalog(locale=code, fuzzy=False)
        for text, place in texts().items():
            known = old.get(text if isinstance(text, str) else text[0])
            new.add(text, known.string if known is not None else None, auto_comments=[place])
        (FOLDER / f"{code}.po").write_bytes(written(new))
        print(code, sum(not message.string for message in new if message.id), "to translate")


if __name__ == "__main__":
    main()
