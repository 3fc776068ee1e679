"""A reader of the feed as docs/events.md tells to write one: a table of its own, from a snapshot and the events behind
it.

It knows nothing of the gateway but what it is sent. What it hides, it hides by the rule of the documentation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mailgate.clock import DAY, Instant, from_rfc3339

Row = Mapping[str, Any]


def at(value: str | None) -> Instant | None:
    return None if value is None else from_rfc3339(value)


@dataclass
class Consumer:
    """One tenant's table. `seen`: numbers of the events that were applied; `created`: by message, the event that said
    that it is there, of which there is one.
    """

    tenant_id: str
    rows: dict[str, Row] = field(default_factory=dict)
    retention: Row | None = None
    holds: dict[str, Row] = field(default_factory=dict)
    cursor: str | None = None
    seen: list[int] = field(default_factory=list)
    created: dict[str, str] = field(default_factory=dict)

    def begin(self, page: Mapping[str, Any]) -> None:
        """A snapshot's page: the first one replaces what there was."""
        if page["event_cursor"] is not None:
            self.rows.clear()
            self.cursor = page["event_cursor"]
            self.retention = page["retention"]
            self.holds = {hold["id"]: hold for hold in page["holds"]}
        self.rows.update((state["id"], state) for state in page["items"])

    def apply(self, items: Iterable[Mapping[str, Any]]) -> None:
        """Events, in order; again and again if need be."""
        for item in items:
            assert item["tenant_id"] == self.tenant_id
            self.cursor = item["cursor"]
            self.seen.append(int(item["id"].rpartition(":")[2]))
            if item["type"] == "message.created":
                assert self.created.setdefault(item["message_id"], item["id"]) == item["id"]
            if item["type"] in ("message.created", "message.deleted", "message.purged"):
                assert item["data"]["anchor_at"] is not None, item
            if "message_id" in item:
                if item["message"] is None:
                    self.rows.pop(item["message_id"], None)
                else:
                    self.rows[item["message_id"]] = item["message"]
            if "retention" in item:
                self.retention = item["retention"]
            if item.get("hold") is not None:
                self.holds[item["hold"]["id"]] = item["hold"]
            if item["type"] == "mailbox.state_changed" and item["data"]["state"] == "removed":
                for id_, row in self.rows.items():
                    if row["mailbox_id"] == item["mailbox_id"]:
                        removed = {"mailbox_removed_at": item["at"], "folder_ids": [], "origin_present": False}
                        self.rows[id_] = {**row, **removed}

    def visible(self, now: Instant) -> dict[str, Row]:
        """What is not hidden at `now`, by id: with when it expires."""
        found = {}
        for id_, row in self.rows.items():
            expires_at = None if row["pins"] or self._held(row, now) else self._due_at(row, now)
            if expires_at is None or now < expires_at:
                found[id_] = {**row, "expires_at": expires_at, "held": self._held(row, now)}
        return found

    def _held(self, row: Row, now: Instant) -> bool:
        for hold in self.holds.values():
            until = at(hold["protects_until_at"])
            covers = {
                "tenant": True,
                "mailbox": hold["mailbox_id"] == row["mailbox_id"],
                "messages": hold["id"] in row["hold_ids"],
            }
            if covers[hold["scope"]] and (until is None or now < until):
                return True
        return False

    def _due_at(self, row: Row, now: Instant) -> Instant | None:
        assert self.retention is not None
        terms = self.retention
        shrunk_at, days, first = at(terms["shrunk_at"]), None, True
        for step in terms["steps"]:
            begins = from_rfc3339(step["at"])
            if begins > now and not first:
                break
            if not first and days is not None and step["days"] is not None and step["days"] < days:
                shrunk_at = begins
            days, first = step["days"], False
        if days is None:
            return None
        due = from_rfc3339(row["anchor_at"]) + days * DAY
        due = max(due, from_rfc3339(row["stored_at"]) + terms["min_residence_days"] * DAY)
        if row["unpinned_at"] is not None:
            due = max(due, from_rfc3339(row["unpinned_at"]) + terms["unpin_grace_days"] * DAY)
        if row["keep_until_at"] is not None:
            due = max(due, from_rfc3339(row["keep_until_at"]))
        if shrunk_at is not None and terms["plan_shrink_grace_days"]:
            due = max(due, shrunk_at + terms["plan_shrink_grace_days"] * DAY)
        removed_at = at(row["mailbox_removed_at"])
        return due if removed_at is None else min(due, removed_at)


def of_state(row: Row) -> dict[str, Any]:
    """What a reader's row and the gateway's answer must have in common."""
    return {
        "mailbox_id": row["mailbox_id"],
        "folders": sorted(row["folder_ids"]),
        "thread_id": row["thread_id"],
        "flags": sorted(row["flags"]),
        "labels": sorted(row["labels"]),
        "pins": sorted((pin["entity_type"], pin["entity_id"]) for pin in row["pins"]),
        "size": row["size"],
        "anchor_at": row["anchor_at"],
        "stored_at": row["stored_at"],
        "expires_at": row["expires_at"],
        "held": row["held"],
        "origin_present": row["origin_present"],
    }


def of_answer(message: Row) -> dict[str, Any]:
    """The same of an entry of `GET /messages`."""
    return of_state(
        {
            **message,
            "folder_ids": [folder["id"] for folder in message["folders"]],
            "expires_at": at(message["expires_at"]),
            "origin_present": message["origin"]["present"],
        }
    )
