"""The gateway's own log: one event a line, structured, on standard error, free of secrets.

Every module logs through `structlog.get_logger()`; what libraries say through the standard library's logging comes out
in the same form.
What a key in `_SECRET` names is never written, however deep it stands: the last line of defence, not the first.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from mailgate.settings import LogSettings

REDACTED = "[redacted]"

_SECRET = re.compile(
    r"passw(or)?d|passphrase|secret|token$|authorization|cookie|credential|api_?key|master_?key|data_?key|private_?key|^seed$",
    re.IGNORECASE,
)
# What may slip into a text: `Bearer …` of a header, `user:password@` of a URL, and our own tokens.
_IN_TEXT = re.compile(r"(?i)(bearer\s+)\S+|(://[^\s/:@]*:)[^\s@]+(?=@)|\bmg_[A-Za-z0-9_-]{20,}")


def redact(_logger: WrappedLogger | None, _method: str, event: EventDict) -> EventDict:
    """A processor: what must not be written is replaced by a mark."""
    return {key: _clean(key, value) for key, value in event.items()}


def _clean(key: str, value: Any) -> Any:
    if _SECRET.search(key) and value is not None and not isinstance(value, bool):
        return REDACTED
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, Mapping):
        return {str(inner): _clean(str(inner), item) for inner, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean("", item) for item in value]
    return value


def redact_text(text: str) -> str:
    """The text without bearer tokens, passwords in URLs and tokens of ours."""
    return _IN_TEXT.sub(lambda found: (found[1] or found[2] or "") + REDACTED, text)


def configure(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Set up logging for this process. Called once by each command; calling it again replaces what was there."""
    stream = stream or sys.stderr
    console = settings.format == "console" or (settings.format == "auto" and stream.isatty())
    level = logging.getLevelName(settings.level.upper())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback)
        if console
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    # A traceback becomes text before it is cleaned, and without local variables: those would hold passwords.
    rendering: list[Processor] = [structlog.processors.format_exc_info, redact, renderer]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name, least in _QUIETER.items():
        logging.getLogger(name).setLevel(max(level, least))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


# Libraries that say at `info` what we say ourselves, or that quote protocol lines at `debug`.
_QUIETER = {
    "aioimaplib": logging.WARNING,
    "aiosqlite": logging.WARNING,
    "alembic": logging.WARNING,
    "apscheduler": logging.WARNING,
    "asyncio": logging.WARNING,
    "httpcore": logging.WARNING,
    "httpx": logging.WARNING,
    "sqlalchemy": logging.WARNING,
    "uvicorn.access": logging.WARNING,
    "uvicorn.error": logging.ERROR,  # it warns of what anybody may send, with each request
}
