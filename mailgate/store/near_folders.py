"""Folders as the near side has them: with the names that the CRM gave them, also while the server has others."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.errors import NotFoundError
from mailgate.store.folders import AnyRow
from mailgate.store.schema import folders

_F = folders.c


@dataclass(frozen=True, slots=True)
class Renames:
    """Renames of folders that are on their way to the server, with the folders below them."""

    rows: Sequence[AnyRow] = ()

    def name_of(self, folder_id: str, mailbox_id: str, name: str) -> str:
        """What the near side calls the folder that the server calls `name`."""
        nearest = ""
        found = name
        for row in self.rows:
            if row.mailbox_id != mailbox_id:
                continue
            if row.id == folder_id:
                return str(row.wanted_name)
            if row.delimiter and name.startswith(row.name + row.delimiter) and len(row.name) > len(nearest):
                nearest, found = row.name, row.wanted_name + name[len(row.name) :]
        return found


async def renames(conn: AsyncConnection, mailbox_ids: Collection[str]) -> Renames:
    """The renames that are on their way in these mailboxes."""
    query = select(_F.id, _F.mailbox_id, _F.name, _F.delimiter, _F.wanted_name).where(
        _F.mailbox_id.in_(mailbox_ids), _F.wanted_name.is_not(None), _F.gone_at.is_(None)
    )
    return Renames((await conn.execute(query)).all())


async def find_folder(conn: AsyncConnection, mailbox_id: str, folder_id: str, *, selectable: bool = True) -> Row[Any]:
    """The mailbox's folder that messages can be put into; without `selectable` one that only holds others, too. Raises
    NotFoundError `folder_not_found`.
    """
    query = select(folders).where(
        _F.id == folder_id,
        _F.mailbox_id == mailbox_id,
        _F.gone_at.is_(None),
        _F.on_its_way.is_distinct_from("delete"),
    )
    if selectable:
        query = query.where(_F.selectable)
    row = (await conn.execute(query)).one_or_none()
    if row is None:
        raise NotFoundError(f"this mailbox has no folder {folder_id}", slug="folder_not_found")
    return row
