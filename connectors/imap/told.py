"""What a server tells while it carries out a change."""

from __future__ import annotations

from connectors.imap.responses import Fetch, Response, Status
from connectors.imap.uidset import UidSet
from connectors.port import Sink


class ToldFlags:
    """The flags that FETCH responses tell of wanted messages: the last word counts."""

    def __init__(self, wanted: UidSet) -> None:
        self.flags: dict[int, frozenset[str]] = {}
        self._wanted = wanted

    def claim(self, response: Response, /) -> bool:
        if not isinstance(response, Fetch) or response.uid is None or response.flags is None:
            return False
        if response.uid not in self._wanted:
            return False
        self.flags[response.uid] = response.flags
        return True

    def literal(self, uid: int | None, section: str, octets: int, /) -> tuple[bool, Sink | None]:
        return False, None


class ToldCode:
    """The arguments of one response code, in an untagged OK or in the tagged one."""

    def __init__(self, code: str) -> None:
        self._code = code
        self._untagged: bytes | None = None

    def claim(self, response: Response, /) -> bool:
        if not isinstance(response, Status) or response.tag is not None or response.code != self._code:
            return False
        self._untagged = response.arguments
        return True

    def literal(self, uid: int | None, section: str, octets: int, /) -> tuple[bool, Sink | None]:
        return False, None

    def of(self, status: Status) -> bytes | None:
        return status.arguments if status.code == self._code else self._untagged
