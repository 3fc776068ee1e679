"""C2SP log checkpoints (c2sp.org/tlog-checkpoint): the state of a log in three signed lines.

    <origin>
    <number of leaves, decimal>
    <base64 of the root hash>

Further, non-empty lines are extensions; ours has none. The log's key is named as its origin, so a checkpoint of another
log never passes for this one's.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass

from .note import NoteError, Signature, Signer, Verifier, check_key_name, open_note, parse_note, sign_note
from .tree import EMPTY_ROOT, HASH_SIZE, MAX_SIZE

_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")


class CheckpointError(NoteError):
    """The note is no checkpoint, or not of the log that was expected."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A log's state: `size` leaves whose tree has the 32-byte `root`."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The note text, with its final newline. Raises CheckpointError when the fields can't make one."""
        lines = (self.origin, str(self.size), base64.b64encode(self.root).decode(), *self.extensions)
        if any(not line or "\n" in line for line in lines) or len(self.root) != HASH_SIZE:
            raise CheckpointError("not a checkpoint: empty lines, or a root that is no SHA-256")
        if not 0 <= self.size <= MAX_SIZE or (self.size == 0 and self.root != EMPTY_ROOT):
            raise CheckpointError("not a checkpoint: a size that does not fit")
        return "\n".join(lines) + "\n"

    def sign(self, signers: Sequence[Signer], others: Sequence[Signature] = ()) -> bytes:
        """The signed note. The first signer is the log's key and bears the origin's name."""
        if not signers or signers[0].name != check_key_name(self.origin):
            raise CheckpointError("the log's key is not named as its origin")
        return sign_note(self.text, signers, others)


def parse_checkpoint(data: bytes) -> Checkpoint:
    """The checkpoint in a note, signatures *not* verified. Raises NoteError."""
    return _parse_text(parse_note(data)[0])


def open_checkpoint(data: bytes, log: Verifier, witnesses: Sequence[Verifier] = ()) -> Checkpoint:
    """The checkpoint in a note that `log`'s key signed; its origin is the key's name. Raises NoteError.

    Signatures of `witnesses` are verified where present; other lines are ignored.
    """
    text, signed = open_note(data, [log, *witnesses])
    if log not in signed:
        raise CheckpointError("the log's own key did not sign")
    checkpoint = _parse_text(text)
    if checkpoint.origin != log.name:
        raise CheckpointError(f"a checkpoint of {checkpoint.origin[:80]!r}, signed by {log.name!r}")
    return checkpoint


def _parse_text(text: str) -> Checkpoint:
    lines = text[:-1].split("\n")
    if len(lines) < 3 or not all(lines):
        raise CheckpointError("a checkpoint has at least three lines, none empty")
    origin, size, root_text, *extensions = lines
    if not _SIZE.fullmatch(size) or int(size) > MAX_SIZE:
        raise CheckpointError("the size of a checkpoint is a decimal number without leading zeroes")
    try:
        root = base64.b64decode(root_text, validate=True)
    except (binascii.Error, ValueError):
        raise CheckpointError("the root of a checkpoint is base64") from None
    if len(root) != HASH_SIZE or base64.b64encode(root).decode() != root_text:
        raise CheckpointError("the root of a checkpoint is 32 bytes in canonical base64")
    if size == "0" and root != EMPTY_ROOT:
        raise CheckpointError("the empty log has one root only")
    return Checkpoint(origin, int(size), root, tuple(extensions))
