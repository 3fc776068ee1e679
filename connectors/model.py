"""What a mail server tells us, as frozen values free of any library's types.

Instants are integer microseconds since the epoch in UTC. Folder names are Unicode text (decoded from modified UTF-7,
RFC 3501 §5.1.3, at the wire).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from operator import attrgetter
from typing import TypeAlias

Instant: TypeAlias = int

MICROSECONDS = 1_000_000


class Security(StrEnum):
    """How the connection is protected (RFC 8314)."""

    TLS = "tls"
    STARTTLS = "starttls"
    NONE = "none"


class SpecialUse(StrEnum):
    """The special uses of RFC 6154, and INBOX, as one closed set."""

    INBOX = "inbox"
    ALL = "all"
    ARCHIVE = "archive"
    DRAFTS = "drafts"
    FLAGGED = "flagged"
    JUNK = "junk"
    SENT = "sent"
    TRASH = "trash"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and how to reach a server. `host` is a DNS name or an address literal without brackets."""

    host: str
    port: int
    security: Security


@dataclass(frozen=True, slots=True)
class PasswordAuth:
    """A user name and password. `repr` never shows the password."""

    username: str
    password: str = field(repr=False)

    @property
    def secret(self) -> str:
        """What must not be shown."""
        return self.password


@dataclass(frozen=True, slots=True)
class BearerAuth:
    """A user name and an OAuth 2.0 access token (RFC 6750), for OAUTHBEARER and XOAUTH2. `repr` never shows the token.

    `expires_at`: until when the token is good; None when nobody said.
    """

    username: str
    token: str = field(repr=False)
    expires_at: Instant | None = None

    @property
    def secret(self) -> str:
        """What must not be shown."""
        return self.token


@dataclass(frozen=True, slots=True)
class Folder:
    """One entry of LIST (RFC 9051 §6.3.9).

    `name` is Unicode; `delimiter` is None for a flat namespace; `attributes` are lower case with their backslash
    (`\\\\noselect`).
    """

    name: str
    delimiter: str | None
    attributes: frozenset[str]
    special_use: SpecialUse | None
    selectable: bool


@dataclass(frozen=True, slots=True)
class Namespace:
    """Where folders of a user's own stand (RFC 2342): names but INBOX begin with `prefix` (Courier: `INBOX.`).

    `delimiter` is None for a flat namespace.
    """

    prefix: str
    delimiter: str | None

    def name_of(self, *parts: str) -> str:
        """The server's name of the folder that a person calls so, from the top down: `Work` → `INBOX.Work`.

        Raises ValueError for names that cannot be: an empty part, control characters, the delimiter inside a part, or
        a folder inside another where there are none.
        """
        if len(parts) == 1 and parts[0].upper() == "INBOX":
            return "INBOX"
        if not parts or not all(parts):
            raise ValueError("the name of a folder is empty")
        for part in parts:
            if any(ord(c) < 32 or 127 <= ord(c) < 160 or 0xD800 <= ord(c) < 0xE000 for c in part):
                raise ValueError("the name of a folder holds control characters")
            if self.delimiter is not None and self.delimiter in part:
                raise ValueError(f"the name of a folder holds {self.delimiter!r}, which parts folders at this server")
        if len(parts) > 1 and self.delimiter is None:
            raise ValueError("this server has no folders inside others")
        return self.prefix + (self.delimiter or "").join(parts)

    def full(self, name: str) -> str:
        """The server's name of a folder that is called by it already, or without the prefix. What begins with `#` is
        of another namespace (RFC 9051 §5.1.2.1).
        """
        if name.upper() == "INBOX" or name.startswith((self.prefix, "#")):
            return name
        return self.prefix + name

    def parts_of(self, name: str) -> tuple[str, ...]:
        """The inverse of `name_of` for a server's name; one that stands elsewhere keeps all its parts."""
        inside = name.removeprefix(self.prefix) or name
        return tuple(inside.split(self.delimiter)) if self.delimiter else (inside,)


@dataclass(frozen=True, slots=True)
class FolderStatus:
    """The state of a folder at an instant (SELECT or STATUS). `highestmodseq` is None without CONDSTORE (RFC 7162)."""

    uidvalidity: int
    uidnext: int | None
    exists: int
    highestmodseq: int | None


@dataclass(frozen=True, slots=True)
class MessageMeta:
    """One message's metadata from UID FETCH (UID FLAGS INTERNALDATE RFC822.SIZE MODSEQ).

    `flags` are as the server spells system flags canonically (`\\\\Seen`) and keywords verbatim; `internal_date` is
    None when absent or unparsable;
    `size` is RFC822.SIZE, which some servers report wrongly; `modseq` None without CONDSTORE; `email_id` is the
    server's own identity of the message (X-GM-MSGID), `labels` its labels (X-GM-LABELS;
    system ones keep their backslash), None where there is no such thing.
    """

    uid: int
    flags: frozenset[str]
    internal_date: Instant | None
    size: int
    modseq: int | None = None
    email_id: str | None = None
    labels: frozenset[str] | None = None

    def __reduce__(self) -> tuple[type[MessageMeta], tuple[object, ...]]:
        return MessageMeta, _META(self)


_META = attrgetter(*MessageMeta.__slots__)  # to pickle values alone takes a third of what names and values take


@dataclass(frozen=True, slots=True)
class FlagsChange:
    """A message's flags now (a FETCH with UID and FLAGS, and labels where the server has them)."""

    uid: int
    flags: frozenset[str]
    modseq: int | None = None
    labels: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class QResync:
    """What we knew at our last checkpoint (RFC 7162 §3.2.5), sent with SELECT when the server offers QRESYNC."""

    uidvalidity: int
    modseq: int


@dataclass(frozen=True, slots=True)
class Selected:
    """The answer to SELECT or EXAMINE.

    `vanished` and `changed` are filled only when QRESYNC was used and UIDVALIDITY still agrees; `resynced` says whether
    they are complete.
    `permanent_flags` is None when the server named none. `object_id` is the folder's own identity, which stays with it
    when it is renamed (RFC 8474 §4.2 MAILBOXID); None where the server tells none.
    """

    status: FolderStatus
    read_only: bool
    resynced: bool = False
    vanished: tuple[range, ...] = ()
    changed: tuple[FlagsChange, ...] = ()
    permanent_flags: frozenset[str] | None = None
    object_id: str | None = None
