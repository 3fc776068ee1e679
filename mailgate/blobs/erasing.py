"""Erasing blobs of a local directory: single files are unlinked, members of packs struck out of them."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from mailgate.blobs import packs
from mailgate.blobs.disk import LocalDisk
from mailgate.blobs.errors import BlobStoreError, PackDamagedError
from mailgate.blobs.frames import HEADER
from mailgate.blobs.names import path_of, place

_UNLINKERS: Final = 4
_UNLINKED_ALONE: Final = 250
"""Files that one thread removes before a second is worth its while; a file system takes four times what it takes from
one."""


class Erased(enum.Enum):
    """What became of an erase: both outcomes are success, and both are recorded."""

    gone = "gone"
    missing = "missing"


async def erase_local(disk: LocalDisk, blob_ids: list[str], beside: Mapping[str, int]) -> list[Erased | BlobStoreError]:
    """Remove blobs from a local directory, in threads of which each has folders of its own, and looks each up once.
    Outcomes in the same order; failures are returned. `beside`: see `BlobStore.erase_many`.
    """
    members: dict[str, list[tuple[int, str]]] = {}
    staying: dict[str, dict[int, int]] = {}
    singles: dict[str, str] = {}
    for blob_id in blob_ids:
        packed = packs.place_of(blob_id)
        if packed is None:
            singles[path_of(blob_id)] = blob_id
        else:
            members.setdefault(place(packed[0]), []).append((packed[1], blob_id))
    for blob_id, size in beside.items():
        packed = packs.place_of(blob_id)
        if packed is not None:
            staying.setdefault(place(packed[0]), {})[packed[1]] = size
    found: dict[str, Erased | BlobStoreError] = {}

    def unlink(paths: Sequence[str]) -> None:
        failed = disk.unlink_many(paths)
        for path in paths:
            blob_id = singles[path]
            found[blob_id] = _outcome(blob_id, failed[path]) if path in failed else Erased.gone

    def strike(paths: Sequence[str]) -> None:
        for path in paths:
            found.update(_struck(disk, path, members[path], staying.get(path, {})))

    await asyncio.gather(
        *_shared(unlink, sorted(singles), _UNLINKED_ALONE), *_shared(strike, sorted(members), _UNLINKED_ALONE)
    )
    return [found[blob_id] for blob_id in blob_ids]


def _shared(work: Callable[[Sequence[str]], None], paths: Sequence[str], alone: int) -> list[Awaitable[None]]:
    """The work cut for a few threads; `alone`: of how many files one is soon done."""
    share = max(alone, -(-len(paths) // _UNLINKERS))
    return [asyncio.to_thread(work, paths[start : start + share]) for start in range(0, len(paths), share)]


def _struck(
    disk: LocalDisk, path: str, members: Sequence[tuple[int, str]], staying: Mapping[int, int]
) -> dict[str, Erased | BlobStoreError]:
    """Erase these from one pack; what became of each."""
    try:
        there = disk.strike(path, [number for number, _ in members], staying, HEADER)
    except OSError as error:
        return {blob_id: _outcome(blob_id, error) for _, blob_id in members}
    except packs.DamagedPackError:
        todo = f"put the file {path} back from a backup, or remove it if nothing in it can be read"
        why = f"can't be erased: the table of its pack is damaged; {todo}"
        return {blob_id: PackDamagedError(f"blob {blob_id} {why}") for _, blob_id in members}
    return {blob_id: Erased.gone if number in there else Erased.missing for number, blob_id in members}


def _outcome(blob_id: str, error: OSError) -> Erased | BlobStoreError:
    if isinstance(error, FileNotFoundError):
        return Erased.missing
    return BlobStoreError(f"blob {blob_id} can't be erased: {error.strerror}")
