"""Mozilla's configuration document (clientConfig 1.1), as a domain publishes it. Pure.

It comes from strangers, so it is read by an expat that refuses every document type and with it every entity, and that
keeps nothing but what is looked for: a few short texts. Only servers over TLS, with a password or OAuth, are taken.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final
from xml.parsers import expat

from connectors.autoconfig.model import Server, host_name
from connectors.model import Security

MOST_BYTES: Final = 64 * 1024
_DEEPEST: Final = 30
_LONGEST: Final = 1_000
_MOST_SERVERS: Final = 50
_ROOT: Final = "clientConfig"
_SECURITY: Final = {"SSL": Security.TLS, "STARTTLS": Security.STARTTLS}
_LOGINS: Final = frozenset({"password-cleartext", "plain", "password-encrypted", "secure", "OAuth2"})
_PLACEHOLDER: Final = re.compile("%EMAIL(ADDRESS|LOCALPART|DOMAIN)%")
_FIELDS: Final = frozenset({"hostname", "port", "socketType", "username", "authentication"})


class DocumentError(ValueError):
    """This is no such document, or one that nobody needs to send."""


@dataclass(frozen=True, slots=True)
class Described:
    """What a document says: the first usable server of each kind, the provider's name, and whether only OAuth is
    taken.
    """

    imap: Server | None
    smtp: Server | None
    name: str | None
    only_oauth: bool


@dataclass(slots=True)
class _Found:
    kind: str
    fields: dict[str, str] = field(default_factory=dict)
    logins: list[str] = field(default_factory=list)


def parse(data: bytes, address: str) -> Described:
    """What it says for an address. Raises DocumentError."""
    if len(data) > MOST_BYTES:
        raise DocumentError(f"it has more than {MOST_BYTES} bytes")
    reader = _Reader()
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = _refuse
    parser.EntityDeclHandler = _refuse
    parser.ExternalEntityRefHandler = _refuse
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    try:
        parser.Parse(data, True)
    except DocumentError:
        raise
    except (expat.ExpatError, ValueError, LookupError) as error:  # the last two: of encodings that nobody has
        raise DocumentError(f"it is not well formed: {type(error).__name__}") from None
    if not reader.rooted:
        raise DocumentError(f"it has no {_ROOT}")
    imap = next((found for found in reader.found if found.kind == "imap" and _server(found, address)), None)
    smtp = next((found for found in reader.found if found.kind == "smtp" and _server(found, address)), None)
    return Described(
        imap=None if imap is None else _server(imap, address),
        smtp=None if smtp is None else _server(smtp, address),
        name=reader.name or None,
        only_oauth=imap is not None and set(imap.logins) == {"OAuth2"},
    )


def _refuse(*_: object) -> int:
    raise DocumentError("it declares a document type or entities")


class _Reader:
    """Hears the document."""

    def __init__(self) -> None:
        self.rooted = False
        self.name = ""
        self.found: list[_Found] = []
        self._path: list[str] = []
        self._text = ""
        self._server: _Found | None = None

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if len(self._path) >= _DEEPEST:
            raise DocumentError("it is nested too deeply")
        self._path.append(tag)
        self._text = ""
        if self._path == [_ROOT]:
            self.rooted = True
        if self._path[:-1] == [_ROOT, "emailProvider"] and tag in ("incomingServer", "outgoingServer"):
            if len(self.found) >= _MOST_SERVERS:
                raise DocumentError("it names too many servers")
            self._server = _Found(attributes.get("type", "").lower())
            self.found.append(self._server)

    def end(self, tag: str) -> None:
        text = self._text.strip()
        if self._server is not None and len(self._path) == 4 and tag in _FIELDS:
            if tag == "authentication":
                self._server.logins.append(text)
            else:
                self._server.fields.setdefault(tag, text)
        elif self._path == [_ROOT, "emailProvider", "displayName"]:
            self.name = "".join(c for c in text if c.isprintable())[:100]
        self._path.pop()
        if len(self._path) == 2:
            self._server = None
        self._text = ""

    def text(self, data: str) -> None:
        if len(self._text) <= _LONGEST:
            self._text += data[:_LONGEST]


def _server(found: _Found, address: str) -> Server | None:
    """The server, if it can be used: by name, over TLS, with a login that is known."""
    fields = found.fields
    host = host_name(_filled(fields.get("hostname", ""), address))
    port = fields.get("port", "")
    security = _SECURITY.get(fields.get("socketType", ""))
    username = _filled(fields.get("username", "%EMAILADDRESS%"), address)
    known = not found.logins or not _LOGINS.isdisjoint(found.logins)
    if host is None or security is None or not known or not port.isascii() or not port.isdigit() or len(port) > 5:
        return None
    if not 0 < int(port) < 65_536 or not username or not username.isprintable() or len(username) > 320:
        return None
    return Server(host, int(port), security, username)


def _filled(text: str, address: str) -> str:
    local, _, domain = address.rpartition("@")
    values = {"%EMAILADDRESS%": address, "%EMAILLOCALPART%": local, "%EMAILDOMAIN%": domain}
    return _PLACEHOLDER.sub(lambda found: values[found[0]], text)
