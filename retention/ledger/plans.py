"""The plans of a tenant, and the policies, as its log told of them. Pure.

A `plan.effective` leaf says which plan holds, and from when. What was told before for that instant or for a later one
no longer holds: a payment that is told late undoes the end of a plan that time had told. So the leaves up to a purge
give the line of plans that the gateway knew when it purged.

Instants are texts: of one width, they sort as they follow.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from typing import Any, NamedTuple

from .canonical import CanonicalError, format_instant, parse_instant

DAY = 86_400_000_000


class Told(NamedTuple):
    """A plan that holds from `since` on; `catalogue` names the version of the plans by which it was told."""

    since: str
    plan: str
    days: int
    catalogue: str


class Plans:
    """The line of plans, as far as it was told."""

    changed = False
    """Whether one plan ever followed another, though it may have been taken back."""

    def __init__(self) -> None:
        self._line: list[Told] = []

    def tell(self, told: Told) -> None:
        """Take the next leaf's plan."""
        while self._line and self._line[-1].since >= told.since:
            self._line.pop()
        self.changed = self.changed or bool(self._line)
        self._line.append(told)

    def at(self, now: str) -> Told | None:
        """The plan that holds then; None when none was told of that time."""
        index = self._index(now)
        return self._line[index] if index >= 0 else None

    def shrunk_at(self, now: str, catalogue: str) -> str | None:
        """When the days last became fewer, up to then; None when they never did as this version of the plans has them:
        what another version told of is not compared, since its days count no more.
        """
        for index in range(self._index(now), 0, -1):
            before, after = self._line[index - 1 : index + 1]
            if before.catalogue == after.catalogue == catalogue and after.days < before.days:
                return after.since
        return None

    def _index(self, now: str) -> int:
        return bisect_right(self._line, now, key=lambda told: told.since) - 1


class Policies:
    """The versions of the policy that were set, by the hash of their documents."""

    def __init__(self) -> None:
        self._graces: dict[str, Mapping[str, int]] = {}
        self._catalogues: dict[str, str] = {}
        self._brakes: dict[str, tuple[int, int]] = {}

    def __contains__(self, sha256: str) -> bool:
        return sha256 in self._graces

    def set(self, sha256: str, document: Mapping[str, Any]) -> None:
        """Take a `policy.set`."""
        graces = document.get("graces_days")
        days = graces.items() if isinstance(graces, dict) else ()
        self._graces[sha256] = {name: count for name, count in days if type(count) is int}
        self._catalogues[sha256] = str(document.get("catalogue_sha256"))
        match document.get("brake"):
            case [int(minimum), int(share)]:
                self._brakes[sha256] = minimum, share

    def catalogue(self, sha256: str) -> str:
        """Which version of the plans goes with this policy; empty when it was never set."""
        return self._catalogues.get(sha256, "")

    def brake(self, sha256: str) -> tuple[int, int] | None:
        """So many copies, and such a share of a tenant's in percent, a run takes unasked; None where it does not say.

        More than both needs an approval, or a change of the plan that explains it.
        """
        return self._brakes.get(sha256)

    def grace(self, sha256: str, name: str) -> int:
        """A grace of this policy in days; 0 where it has none."""
        return self._graces.get(sha256, {}).get(name, 0)

    def grace_over(self, since: str, sha256: str, name: str) -> str:
        """When one that began then is over; empty, before all instants, where the policy has none."""
        days = self.grace(sha256, name)
        return days_after(since, days) if days else ""


def days_after(since: str, days: int) -> str:
    """So many days of 86 400 seconds later; after all instants where no text can say it."""
    try:
        return format_instant(parse_instant(since) + days * DAY)
    except CanonicalError:
        return "the year 10000"
