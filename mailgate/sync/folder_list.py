"""The list of a mailbox's folders, kept in step with the server's: new ones, changed ones, renamed ones, those gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from connectors.errors import ConnectorError, Scope
from connectors.model import Folder, FolderStatus, SpecialUse
from mailgate.clock import Instant
from mailgate.messages.timed import untimed
from mailgate.sync import asking, folder_names, listing
from mailgate.sync.context import Context
from mailgate.sync.state import FolderState, ListingChanges

SAMPLE: Final = 3
"""So many messages must agree before a folder counts as renamed."""

_ORDER: Final[Mapping[SpecialUse | None, int]] = {
    SpecialUse.INBOX: 0,
    SpecialUse.SENT: 1,
    SpecialUse.ARCHIVE: 2,
    None: 3,
    SpecialUse.DRAFTS: 4,
    SpecialUse.ALL: 5,
    SpecialUse.FLAGGED: 5,
    SpecialUse.TRASH: 6,
    SpecialUse.JUNK: 7,
}
"""In which order folders are imported."""


def import_order(folder: FolderState) -> tuple[int, str]:
    """A key to sort folders by before a first import."""
    return _ORDER.get(folder.special_use, 3), folder.name


async def refresh(context: Context, known: Sequence[FolderState] | None = None) -> str | None:
    """Bring the list of folders up to date; why some of them are left out, if any are. `known`: the list as it was
    stored a moment ago.
    """
    if known is None:
        known = await context.store.folders(context.config.id)
    found = await context.source.list_folders()
    listed = listing.storable(found)
    labelled = listing.is_labelled(context.source.capabilities, found)
    rules = listing.Rules(context.config.include, context.config.exclude, labelled)
    difference = listing.compare(known, listed, rules)
    gone = await _really_gone(context, difference.gone)
    if difference.appeared or gone or context.misnamed:
        told = await folder_names.told(context, known, listed)
        difference, gone, renamed = listing.by_identity(known, listed, difference, gone, listing.moved(known, told))
        renamed |= await _renames(context, gone, difference.appeared, told)
        context.contradicted.update(context.misnamed - renamed.keys() - {folder.id for folder in gone})
        context.misnamed.clear()
        # One that stayed may be another by now, which took its name; a look by its numbers was one at the other.
        context.verified.clear()
        context.looked_at = {id_: at for id_, at in context.looked_at.items() if id_ not in renamed}
    else:
        renamed = {}
    if difference.appeared or difference.changed or gone or renamed:
        names = {folder.name for folder in renamed.values()}
        changes = ListingChanges(
            created=[(f, rules.follows(f)) for f in difference.appeared if f.name not in names],
            updated={folder_id: (f, rules.follows(f)) for folder_id, f in difference.changed.items()},
            renamed=renamed,
            gone=[folder.id for folder in gone if folder.id not in renamed],
        )
        known = await context.store.save_listing(context.owner, changes, context.clock())
    context.folders = {folder.id: folder for folder in known}
    now = context.clock()
    context.looked_at = {
        folder.id: context.looked_at.get(folder.id, 0)
        for folder in context.followed()
        if not listing.is_lost(folder, now)
    }
    return listing.left_out(found)


async def _really_gone(context: Context, missing: Sequence[FolderState]) -> list[FolderState]:
    """A folder that a list leaves out is gone only if the server also says so when asked for it (S8). A refusal
    for another reason says nothing.
    """
    if not missing:
        return []
    asked = [folder for folder in missing if folder.selectable]
    statuses = await context.source.status([folder.name for folder in asked]) if asked else {}
    silent = {folder.name for folder in asked} - {name for name, status in statuses.items() if status is None}
    return [folder for folder in missing if folder.name not in silent]


async def _renames(
    context: Context, gone: Sequence[FolderState], appeared: Sequence[Folder], told: Mapping[str, str | None]
) -> dict[str, Folder]:
    """Folders that are called otherwise now: same UIDVALIDITY, and the newest messages are the same ones; where there
    are none, no other identity.
    """
    if not gone or not appeared:
        return {}
    selectable = [folder.name for folder in appeared if folder.selectable]
    statuses: Mapping[str, FolderStatus | None] = await context.source.status(selectable) if selectable else {}
    confirmed: dict[str, Folder] = {}
    for folder_id, folder in listing.renames(gone, appeared, statuses).items():
        state = next(state for state in gone if state.id == folder_id)
        sample = await context.store.sample(folder_id, state.uidvalidity or 0, SAMPLE)
        others = {state.object_id, told.get(folder.name)} - {None}
        if await _holds(context, state, folder.name, sample) if sample else len(others) < 2:
            confirmed[folder_id] = folder
    return confirmed


async def _holds(
    context: Context, state: FolderState, name: str, sample: Mapping[int, tuple[bytes, Instant | None]]
) -> bool:
    """Whether these messages, by UID, stand in the folder of that name, but for those that left it."""
    uidvalidity = state.uidvalidity or 0
    if asking.given_up(context, state, uidvalidity, list(sample)):
        return False
    try:
        await context.source.open(name)
        found = await asking.headers(context, state.id, uidvalidity, sorted(sample))
    except ConnectorError as error:
        if error.scope is not Scope.FOLDER:
            raise
        return False  # gone again, or not to be read: then it is a new folder
    return bool(found) and all(sample[uid][0] == untimed(token) for uid, (_, token) in found.items() if uid in sample)
