"""What a server can say (RFC 9051 §7), one value type per kind. Made by `syntax` and `wire`, free of I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, TypeAlias

from connectors.model import Instant
from connectors.port import Sink


@dataclass(frozen=True, slots=True)
class Status:
    """OK, NO, BAD, BYE or PREAUTH (§7.1). `tag` is None when untagged; `code` is upper case; `arguments` are the
    code's raw bytes.
    """

    tag: str | None
    condition: str
    code: str | None = None
    arguments: bytes = b""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Continuation:
    """`+ text` (§7.6)."""

    text: bytes = b""


@dataclass(frozen=True, slots=True)
class Capability:
    """CAPABILITY (§7.2.2), upper case."""

    words: frozenset[str]


@dataclass(frozen=True, slots=True)
class Enabled:
    """ENABLED (§7.2.1), upper case."""

    words: frozenset[str]


@dataclass(frozen=True, slots=True)
class ListItem:
    """One LIST response (§7.3.1), or LSUB (RFC 3501 §7.2.3). `name` is as on the wire; `attributes` are lower case;
    `delimiter` None when flat.
    """

    attributes: frozenset[str]
    delimiter: str | None
    name: bytes


@dataclass(frozen=True, slots=True)
class Namespaces:
    """NAMESPACE (RFC 2342 §5), the personal ones: (prefix as on the wire, delimiter or None when flat)."""

    personal: tuple[tuple[bytes, str | None], ...]


@dataclass(frozen=True, slots=True)
class StatusItem:
    """One STATUS response (§7.3.4). `items` holds the numeric ones, upper case."""

    name: bytes
    items: dict[str, int]


@dataclass(frozen=True, slots=True)
class Search:
    """SEARCH (RFC 3501 §7.2.5), with MODSEQ of RFC 7162 §3.1.5."""

    numbers: tuple[int, ...]
    modseq: int | None = None


@dataclass(frozen=True, slots=True)
class Esearch:
    """ESEARCH (§7.3.4, RFC 4731). `found` are the ranges of ALL."""

    tag: str | None
    uid: bool
    found: tuple[range, ...] = ()
    count: int | None = None
    modseq: int | None = None


@dataclass(frozen=True, slots=True)
class FolderFlags:
    """FLAGS (§7.3.5)."""

    flags: frozenset[str]


@dataclass(frozen=True, slots=True)
class Exists:
    """EXISTS (§7.4.1)."""

    count: int


@dataclass(frozen=True, slots=True)
class Recent:
    """RECENT (RFC 3501 §7.3.2)."""

    count: int


@dataclass(frozen=True, slots=True)
class Expunge:
    """EXPUNGE (§7.5.1): a sequence number."""

    number: int


@dataclass(frozen=True, slots=True)
class Vanished:
    """VANISHED (RFC 7162 §3.2.10)."""

    uids: tuple[range, ...]
    earlier: bool


@dataclass(slots=True)
class Body:
    """One literal of a FETCH that went to `sink`; `octets` came, all of them. `sink` None: it was discarded.

    `text` is set only between `syntax` and `wire`, for a body that came as a quoted string.
    """

    octets: int
    sink: Sink | None
    text: bytes | None = None


@dataclass(slots=True)
class Fetch:
    """FETCH (§7.5.2), what is known of it. Not frozen: made once per message on the hot path, where freezing costs.

    `flags` are canonical for system flags (`\\\\Seen`), verbatim for keywords. `bodies` maps the section (`""` for
    BODY[]) to what came; a section that was answered NIL is absent. Attributes that nobody asks for are skipped.
    """

    number: int
    uid: int | None = None
    flags: frozenset[str] | None = None
    internal_date: Instant | None = None
    size: int | None = None
    modseq: int | None = None
    email_id: str | None = None
    labels: frozenset[str] | None = None
    weight: int = field(default=0, compare=False, repr=False)
    """About how many bytes of memory its flags take beyond the usual."""
    bodies: dict[str, Body] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unknown:
    """An untagged response that we do not know; ignored (§2.2.2 asks for that)."""

    word: str


@dataclass(frozen=True, slots=True)
class Unparsed:
    """A response of a kind that we know, in a form that we do not. The framing is intact, so the line goes on; a
    command that depends on this kind must fail, since what it was told is unknown.
    """

    word: str
    reason: str


Response: TypeAlias = (
    Status
    | Continuation
    | Capability
    | Enabled
    | ListItem
    | Namespaces
    | StatusItem
    | Search
    | Esearch
    | FolderFlags
    | Exists
    | Recent
    | Expunge
    | Vanished
    | Fetch
    | Unknown
    | Unparsed
)

WHOLE: Final = ""
"""The section of BODY[]: the whole message."""
