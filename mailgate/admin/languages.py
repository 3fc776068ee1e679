"""Languages of the pages: English stands in templates and code, others in catalogues of GNU gettext beside this file.

Numbers, sizes and times are written as each language does; times in UTC, which every page says.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from babel import Locale, UnknownLocaleError, negotiate_locale
from babel.dates import format_date, format_datetime, format_timedelta
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.numbers import format_currency, format_decimal, format_percent
from babel.support import NullTranslations, Translations

from mailgate.clock import SECOND, Instant, to_datetime

ENGLISH = "en"
LANGUAGES = {"en": "English", "vi": "Tiếng Việt", "fr": "Français", "it": "Italiano"}
"""Each in its own words."""
FOLDER = Path(__file__).parent / "locale"

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def marked(text: str) -> str:
    """Marks a text for translation where it stands; it is translated where it is shown."""
    return text


def negotiate(accepted: str | None, wanted: str | None = None) -> str:
    """The language to answer in: the person's own, else the best that the browser accepts, else English."""
    if wanted in LANGUAGES:
        return str(wanted)
    preferred: list[tuple[float, str]] = []
    for part in (accepted or "")[:500].split(","):
        tag, _, weight = part.partition(";q=")
        try:
            preferred.append((-float(weight or 1), tag.strip().replace("-", "_")))
        except ValueError:
            continue
    tags = [tag for weight, tag in sorted(preferred, key=lambda entry: entry[0]) if weight < 0 and tag]
    try:
        return (negotiate_locale(tags, [*LANGUAGES]) or ENGLISH).partition("_")[0]
    except (ValueError, UnknownLocaleError):
        return ENGLISH


class Language:
    """Everything that hangs on the language of a page."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.locale = Locale.parse(code)
        self.translations: NullTranslations = _catalogue(code)

    def text(self, text: str) -> str:
        """A marked text, translated."""
        return self.translations.gettext(text)

    def number(self, value: float) -> str:
        """A number."""
        return format_decimal(value, locale=self.locale)

    def percent(self, part: float) -> str:
        """A part of one, in hundredths."""
        return format_percent(part, locale=self.locale)

    def size(self, value: int) -> str:
        """Bytes, in the largest unit of which there is one at least."""
        power = min(max(value.bit_length() - 1, 0) // 10, len(_UNITS) - 1)
        scaled = value / 1_024**power
        pattern = "#,##0.#" if power and scaled < 10 else "#,##0"
        return f"{format_decimal(scaled, pattern, locale=self.locale)} {_UNITS[power]}"

    def money(self, amount: int, currency: str) -> str:
        """An amount of the smallest coin, of currencies that have a hundred of them."""
        return format_currency(amount / 100, currency, locale=self.locale)

    def moment(self, at: Instant) -> str:
        """Day and time in UTC."""
        return format_datetime(to_datetime(at), "d MMM y HH:mm", locale=self.locale)

    def second(self, at: Instant) -> str:
        """Day and time in UTC, with the second."""
        return format_datetime(to_datetime(at), "d MMM y HH:mm:ss", locale=self.locale)

    def clock(self, at: Instant) -> str:
        """Day and time in UTC without the year."""
        return format_datetime(to_datetime(at), "d MMM HH:mm", locale=self.locale)

    def day(self, at: Instant) -> str:
        """The day in UTC."""
        return format_date(to_datetime(at).date(), "d MMM y", locale=self.locale)

    def short_day(self, at: Instant) -> str:
        """The day in UTC without its year."""
        return format_date(to_datetime(at).date(), "d MMM", locale=self.locale)

    def ago(self, at: Instant, now: Instant) -> str:
        """How long ago, or how long until."""
        delta = timedelta(seconds=round((at - now) / SECOND) or (-1 if at <= now else 1))
        return format_timedelta(delta, add_direction=True, locale=self.locale, threshold=1)

    def lasting(self, seconds: float) -> str:
        """How long something lasts."""
        return format_timedelta(timedelta(seconds=round(seconds)), locale=self.locale, threshold=1)

    def listed(self, words: Sequence[str]) -> str:
        """Words after each other."""
        return ", ".join(words)


@functools.cache
def language(code: str) -> Language:
    """The language; read once."""
    return Language(code)


def _catalogue(code: str) -> NullTranslations:
    if code == ENGLISH:
        return NullTranslations()
    with (FOLDER / f"{code}.po").open("rb") as file:
        catalogue = read_po(file, locale=code)
    compiled = io.BytesIO()
    write_mo(compiled, catalogue)
    compiled.seek(0)
    return Translations(compiled)
