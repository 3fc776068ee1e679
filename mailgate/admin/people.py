"""Who did something, as readers know them: the names of people and tokens, words for the gateway's own doing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from mailgate.actors import COMMAND, SCHEDULE, SYSTEM
from mailgate.admin.languages import marked
from mailgate.admin.page import Page
from mailgate.store import tokens, users

_OURS: Final[Mapping[str, str]] = {
    str(SYSTEM): marked("the gateway"),
    str(SCHEDULE): marked("the schedule"),
    str(COMMAND): marked("a command on the machine"),
    "token:environment": marked("the token of the environment (MAILGATE_ADMIN_TOKEN)"),
}


async def names(page: Page, actors: Iterable[str | None]) -> dict[str, str]:
    """What these are called; one that is missing has no other name than its own."""
    listed = {actor for actor in actors if actor}
    people = [actor.removeprefix("user:") for actor in listed if actor.startswith("user:")]
    made = [actor.removeprefix("token:") for actor in listed if actor.startswith("token:")]
    found = {actor: page.text(_OURS[actor]) for actor in listed if actor in _OURS}
    if people:
        found |= {f"user:{id_}": name for id_, name in (await users.names(page.parts.db, people)).items()}
    if made:
        found |= {f"token:{id_}": name for id_, name in (await tokens.names(page.parts.db, made)).items()}
    return found
