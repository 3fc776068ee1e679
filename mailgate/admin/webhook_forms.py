"""The form of an endpoint: what was typed, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from mailgate.admin.languages import marked
from mailgate.events.types import TYPES
from mailgate.store.hooks.endpoints import Change
from mailgate.store.hooks.rows import Endpoint
from mailgate.webhooks.calling import LONGEST_URL

_LONGEST_DESCRIPTION: Final = 200
_AREAS: Final[Mapping[str, str]] = {
    "message": marked("Messages"),
    "mailbox": marked("Mailboxes"),
    "folder": marked("Folders"),
    "operation": marked("Changes on their way to the mail server"),
    "subscription": marked("Subscriptions"),
    "retention": marked("Purges"),
    "hold": marked("Holds"),
    "connect_link": marked("Links to connect a mailbox"),
    "tenant": marked("Tenants"),
    "alarm": marked("Alarms"),
}


@dataclass(frozen=True, slots=True)
class EndpointForm:
    """What stands in the fields, and what is wrong with which, to be translated."""

    url: str = ""
    tenant_id: str = ""
    description: str = ""
    types: Sequence[str] = ()
    faults: Mapping[str, str] = field(default_factory=dict)

    def wants(self, word: str) -> bool:
        """Whether this word of the filter is ticked."""
        return word in self.types

    def change(self) -> Change:
        """The same as a change of an endpoint."""
        return Change(self.url, self.description, list(self.types), None)


def blank(tenant_id: str) -> EndpointForm:
    """Nothing typed yet."""
    return EndpointForm(tenant_id=tenant_id[:64])


def of_endpoint(endpoint: Endpoint) -> EndpointForm:
    """What it is now."""
    return EndpointForm(endpoint.url, endpoint.tenant_id or "", endpoint.description, tuple(endpoint.types or ()))


def typed(form: Mapping[str, str]) -> EndpointForm:
    """What was typed. All events of an area are one word; ticked beside it, single ones add nothing."""
    words = [word for word in (f"{area}.*" for area in _AREAS) if form.get(f"type:{word}") == "1"]
    whole = {word.removesuffix(".*") for word in words}
    words += [name for name in TYPES if form.get(f"type:{name}") == "1" and name.partition(".")[0] not in whole]
    url, description = form.get("url", "").strip(), form.get("description", "").strip()
    faults = {}
    if not url or len(url) > LONGEST_URL:
        faults["url"] = marked("Write the address of the receiver.")
    if len(description) > _LONGEST_DESCRIPTION or not description.isprintable():
        faults["description"] = marked("Write at most 200 characters.")
    return EndpointForm(url, form.get("tenant", "").strip()[:64], description[:1_000], tuple(words), faults)


def areas(events: Mapping[str, str]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Types of events by area: the word for all of it, what the area is called, its types with their names."""
    return [
        (f"{area}.*", name, [(type_, events[type_]) for type_ in TYPES if type_.startswith(f"{area}.")])
        for area, name in _AREAS.items()
    ]
