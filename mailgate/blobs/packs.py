"""Many blobs in one file of a local directory: what arrives together lies together.

A million messages are a million files otherwise: making one costs more than compressing and encrypting what is in it,
and a back-up has to look at each.

    pack   = "MGPK" ‖ version (1) ‖ 0 ‖ count, 2 bytes ‖ count entries ‖ the stored forms of the blobs, one by one
    entry  = where it begins in the file, 4 bytes ‖ its length, 4 bytes; all zero once it was erased     (big-endian)
    name   = 24 characters: those of an id but for the last two, the first being 4 to 7 instead of 0 to 3
    blob   = the pack's name ‖ its number in the pack, two characters of the same alphabet

K1  A blob's id tells where it is: no table in the database, no index that could be wrong. An id that begins with 4 to
    7 would be one of the year 6429.
K2  Once erased, the bytes are gone from the file: a hole is punched, or zeros are written where the file system knows
    no holes. The file goes with the last of them.
K3  Erasing may stop anywhere, at a power cut too, which may keep the cleared entry and not the hole: when it is begun
    again, all that lies between those that stay is cleared. Two may do it at once: whoever clears an entry looks at
    the table afterwards, and the last one sees it empty.
K4  Else nothing in a pack ever changes, and no name is used again. Where a table is damaged such that erasing one
    could take bytes of another, nothing is erased but the whole file, once all that is left in it is to go. Of blobs
    that are known to stay the caller knows the lengths: where the table says otherwise, nothing goes at all.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Final

from mailgate.clock import Instant
from mailgate.ids import made_at as id_made_at
from mailgate.ids import new_id

MOST: Final = 1_024
"""Blobs in a pack: what two characters can count."""

HEAD: Final = struct.Struct(">4sBxH")
ENTRY: Final = struct.Struct(">II")

_MAGIC: Final = b"MGPK"
_VERSION: Final = 1
_NAME: Final = 24
_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_NUMBERS: Final = [a + b for a in _ALPHABET for b in _ALPHABET]
_NUMBER_OF: Final = {text: number for number, text in enumerate(_NUMBERS)}
_MARKED: Final = dict(zip("0123", "4567", strict=True))
_PLAIN: Final = {marked: plain for plain, marked in _MARKED.items()}
_PUNCH: Final = 0x02 | 0x01  # FALLOC_FL_PUNCH_HOLE, FALLOC_FL_KEEP_SIZE
_ERASED: Final = (0, 0)
_ZEROS: Final = bytes(64 * 1024)


class DamagedPackError(Exception):
    """The file has bytes, but no table that could be understood, or one that can't be true."""


def new_pack(now: Instant) -> str:
    """The name of a new pack."""
    made = new_id(now)
    return _MARKED[made[0]] + made[1:_NAME]


def is_pack(name: str) -> bool:
    """Whether a file of this name is a pack."""
    return len(name) == _NAME and name[0] in _PLAIN


def member(pack: str, number: int) -> str:
    """The id of a blob in the pack."""
    return pack + _NUMBERS[number]


def members(pack: str) -> list[str]:
    """The ids of all blobs that could be in the pack."""
    return [pack + number for number in _NUMBERS]


def span(pack: str) -> tuple[str, str]:
    """The first and the last of them."""
    return pack + _NUMBERS[0], pack + _NUMBERS[-1]


def place_of(blob_id: str) -> tuple[str, int] | None:
    """The pack and the number in it of a blob that lies in one."""
    if len(blob_id) != _NAME + 2 or blob_id[0] not in _PLAIN or blob_id[_NAME:] not in _NUMBER_OF:
        return None
    return blob_id[:_NAME], _NUMBER_OF[blob_id[_NAME:]]


def made_at(blob_id: str) -> Instant:
    """When a blob's id was made, to the millisecond. Raises ValueError for what is no id."""
    return id_made_at(blob_id if place_of(blob_id) is None else _PLAIN[blob_id[0]] + blob_id[1:])


def pack_of(stored: Sequence[bytes]) -> bytes:
    """The file that holds these, at most `MOST` and four gigabytes."""
    head, at = [HEAD.pack(_MAGIC, _VERSION, len(stored))], HEAD.size + ENTRY.size * len(stored)
    for blob in stored:
        head.append(ENTRY.pack(at, len(blob)))
        at += len(blob)
    return b"".join((*head, *stored))


def entries(descriptor: int) -> list[tuple[int, int]]:
    """Beginning and length of each blob, (0, 0) for an erased one; none in an empty file. Raises DamagedPackError,
    OSError.
    """
    head = os.pread(descriptor, HEAD.size, 0)
    if not head:
        return []
    if len(head) < HEAD.size:
        raise DamagedPackError
    magic, version, count = HEAD.unpack(head)
    table = os.pread(descriptor, ENTRY.size * count, HEAD.size)
    if magic != _MAGIC or version != _VERSION or count > MOST or len(table) < ENTRY.size * count:
        raise DamagedPackError
    return list(ENTRY.iter_unpack(table))


def living(descriptor: int) -> Iterator[int]:
    """The numbers of those that were not erased. Raises as `entries`."""
    return (number for number, entry in enumerate(entries(descriptor)) if entry != _ERASED)


def strike(
    descriptor: int, numbers: Collection[int], staying: Mapping[int, int], header: bytes
) -> tuple[set[int], bool]:
    """Erase these from the pack: those that were there, and whether nothing is left in it, so that the file may go.

    If these are all that was left, only the file is to go. `staying`: the lengths of others that are known to stay, and
    that begin with `header`. Raises as `entries`; nothing was touched then.
    """
    before = entries(descriptor)
    if any(number >= len(before) or before[number][1] != length for number, length in staying.items()):
        raise DamagedPackError
    left = {number for number, entry in enumerate(before) if entry != _ERASED}
    there = left.intersection(numbers)
    if there == left:
        return there, True
    between = _between(before, numbers, os.fstat(descriptor).st_size)
    bounds = {bound for region in between for bound in region}
    for start, length in (before[number] for number in staying):
        if (start in bounds or start + length in bounds) and os.pread(descriptor, len(header), start) != header:
            raise DamagedPackError
    for start, end in between:
        _clear(descriptor, start, end)
    for number in there:
        entry = HEAD.size + ENTRY.size * number
        _overwrite(descriptor, entry, entry + ENTRY.size)
    return there, all(entry == _ERASED for entry in entries(descriptor))


def _between(table: Sequence[tuple[int, int]], numbers: Collection[int], size: int) -> list[tuple[int, int]]:
    """What lies between those that stay, where one of these lies or lay: beginning and end, in a file of this size.

    Raises DamagedPackError when the table can't be true.
    """
    found: list[tuple[int, int]] = []
    end = stays = HEAD.size + ENTRY.size * len(table)  # where the last one ended, and the last one that stays
    exact, wanted = True, False  # whether the next one begins there; whether one of `numbers` came since
    for number, (start, length) in enumerate(table):
        wanted |= number in numbers
        if (start, length) == _ERASED:
            exact = False
            continue
        if start < end or (exact and start > end):
            raise DamagedPackError
        end, exact = start + length, True
        if number not in numbers:
            if wanted:
                found.append((stays, min(start, size)))
            stays, wanted = end, False
    return [*found, (stays, size)] if wanted else found


def _clear(descriptor: int, start: int, end: int) -> None:
    try:
        _punch(descriptor, start, end - start)
    except OSError:  # no such holes here, or no room to write down where one is
        _overwrite(descriptor, start, end)


def _overwrite(descriptor: int, start: int, end: int) -> None:
    while start < end:
        start += os.pwrite(descriptor, _ZEROS[: end - start], start)


def _find_punch() -> Callable[[int, int, int], None]:
    """fallocate(2), which the standard library has without its modes."""
    try:
        function = ctypes.CDLL(None, use_errno=True).fallocate
    except (AttributeError, OSError):
        return _no_punch
    function.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    function.restype = ctypes.c_int

    def punch(descriptor: int, start: int, length: int) -> None:
        if function(descriptor, _PUNCH, start, length) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    return punch


def _no_punch(descriptor: int, start: int, length: int) -> None:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


_punch = _find_punch()
