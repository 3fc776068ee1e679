"""Two states of one log: does the newer one begin with the older one, or was history rewritten?

The older state is a checkpoint file that left the house at the time, or a whole exported folder. Its leaves are not
needed: one signed line of 32 bytes is enough to catch a rewritten log.
"""

from __future__ import annotations

from pathlib import Path

from .checkpoint import Checkpoint, open_checkpoint
from .directory import CHECKPOINT, LogDirectory, NotRegularError, is_folder
from .note import MAX_NOTE, NoteError, Verifier
from .report import Findings, Report, Verdict
from .tiles import CutError, TileError
from .tree import ProofError, consistency_proof, tree_root, verify_consistency


def check_consistency(old: Path, new: Path, key: Verifier, old_key: Verifier | None = None) -> Report:
    """Examine whether the log in the folder `new` continues the state in `old`, a folder or a checkpoint file.

    `old_key` is the key that signed the old state, where it was rotated since. The proof is computed from the new
    folder's tiles and checked against both signed roots; that its tiles fit its entries is what `verify` shows.
    """
    found = Findings()
    facts: dict[str, object] = {"origin": key.name}
    folder, name = (old, CHECKPOINT) if is_folder(old) else (old.parent, old.name)
    before = _checkpoint(LogDirectory(folder), name, old_key or key, "old", found)
    directory = LogDirectory(new)
    after = _checkpoint(directory, CHECKPOINT, key, "new", found)
    if before is None or after is None:
        return Report("", found, facts)
    facts |= {"old_size": before.size, "old_root": before.root.hex(), "size": after.size, "root": after.root.hex()}
    subject = f"the log of {after.size} leaves continues the one of {before.size}"
    if before.origin != after.origin:
        found.add(Verdict.INVALID, f"two different logs, {before.origin} and {after.origin}")
    elif after.size < before.size:
        found.add(Verdict.DIVERGED, f"the log shrank from {before.size} to {after.size} leaves")
    elif after.size == before.size:
        if after.root != before.root:
            found.add(Verdict.DIVERGED, f"two different logs of {after.size} leaves were signed")
    elif before.size:
        _prove(directory, before, after, found)
    return Report(subject, found, facts)


def _prove(directory: LogDirectory, before: Checkpoint, after: Checkpoint, found: Findings) -> None:
    read = directory.nodes(after.size)
    try:
        then = tree_root(before.size, read)
        proof = consistency_proof(before.size, after.size, read)
        verify_consistency(before.size, then, after.size, after.root, proof)
    except (FileNotFoundError, CutError) as error:
        found.add(Verdict.INCOMPLETE, f"a tile is missing or cut: {error}")
    except (TileError, NotRegularError) as error:
        found.add(Verdict.INVALID, str(error))
    except OSError as error:
        found.add(Verdict.UNREADABLE, f"{error.strerror}: {error.filename}")
    except ProofError:
        found.add(Verdict.INVALID, "the tiles of the new log are not what was signed")
    else:
        # Now it is certain what root the new log's first leaves have.
        if then != before.root:
            found.add(Verdict.DIVERGED, f"the first {before.size} leaves are not those that were signed before")


def _checkpoint(directory: LogDirectory, name: str, key: Verifier, which: str, found: Findings) -> Checkpoint | None:
    try:
        return open_checkpoint(directory.read(name, MAX_NOTE), key)
    except FileNotFoundError:
        found.add(Verdict.UNREADABLE, f"there is no {which} checkpoint at {directory.path / name}")
    except (NoteError, NotRegularError) as error:
        found.add(Verdict.INVALID, f"the {which} checkpoint: {error}")
    except OSError as error:
        found.add(Verdict.UNREADABLE, f"the {which} checkpoint: {error.strerror}")
    return None
