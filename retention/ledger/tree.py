"""The Merkle tree of RFC 6962 section 2.1, with SHA-256: growing it, and proving things about it.

Leaves hash as SHA-256(0x00 || data), nodes as SHA-256(0x01 || left || right). A *node* is named by its height and its
index at that height: it covers the leaves [index * 2**height, (index + 1) * 2**height) and exists when all of them do.
Such a node never changes, whatever is appended later; everything else is computed from them. A `NodeReader` returns the
hash of one, wherever it is kept.

Invariants, each a property test:

1. Frontier.root() equals the recursive definition of MTH for every size, whatever sequence of append, extend, to_bytes
   and from_bytes led there.
2. A frontier holds one hash per set bit of its size: 8 + 32 * popcount(size) bytes.
3. A proof that was built verifies; one with any bit of it, of an index, a size, a leaf or a root changed does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256

HASH_SIZE = 32
EMPTY_ROOT = sha256(b"").digest()
MAX_SIZE = 2**63 - 1

NodeReader = Callable[[int, int], bytes]
"""(height, index) → the 32-byte hash of that complete node."""


class ProofError(ValueError):
    """A proof does not show what it claims to show."""


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf (RFC 6962 section 2.1)."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node (RFC 6962 section 2.1)."""
    return sha256(b"\x01" + left + right).digest()


class Frontier:
    """The right edge of a tree: all that is needed to append to it and to know its root. O(log n) hashes.

    `peaks` are the roots of the complete subtrees that the size's set bits name, the largest first.
    """

    __slots__ = ("_peaks", "_size")

    def __init__(self) -> None:
        self._size = 0
        self._peaks: list[bytes] = []

    @property
    def size(self) -> int:
        """Number of leaves."""
        return self._size

    @property
    def peaks(self) -> tuple[bytes, ...]:
        """Roots of the complete subtrees, the largest first; one per set bit of the size."""
        return tuple(self._peaks)

    def append(self, leaf: bytes) -> None:
        """Append one leaf hash (32 bytes, from `leaf_hash`)."""
        size = self._size
        peaks = self._peaks
        self._size = size + 1
        while size & 1:
            leaf = sha256(b"\x01" + peaks.pop() + leaf).digest()
            size >>= 1
        peaks.append(leaf)

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Append leaf hashes in order."""
        for leaf in leaves:
            self.append(leaf)

    def root(self) -> bytes:
        """The tree's root hash; SHA-256 of nothing for the empty tree."""
        return fold_peaks(self._peaks)

    def copy(self) -> Frontier:
        """An independent frontier in the same state."""
        other = Frontier()
        other._size = self._size
        other._peaks = self._peaks.copy()
        return other

    def to_bytes(self) -> bytes:
        """The size as 8 bytes, big-endian, then the peaks, the largest first."""
        return self._size.to_bytes(8, "big") + b"".join(self._peaks)

    @classmethod
    def from_bytes(cls, data: bytes) -> Frontier:
        """The frontier that `to_bytes` wrote. Raises ValueError when the length does not fit the size."""
        size = int.from_bytes(data[:8], "big")
        if len(data) < 8 or len(data) != 8 + HASH_SIZE * size.bit_count():
            raise ValueError(f"a frontier of size {size} does not have {len(data)} bytes")
        frontier = cls()
        frontier._size = size
        frontier._peaks = [data[at : at + HASH_SIZE] for at in range(8, len(data), HASH_SIZE)]
        return frontier

    @classmethod
    def from_nodes(cls, size: int, read: NodeReader) -> Frontier:
        """The frontier of the first `size` leaves of a tree whose nodes `read` returns."""
        frontier = cls()
        frontier._size = size
        frontier._peaks = [read(height, index) for height, index in covering_nodes(0, size)]
        return frontier


def fold_peaks(peaks: Sequence[bytes]) -> bytes:
    """The root over complete subtrees of falling size, the largest first."""
    if not peaks:
        return EMPTY_ROOT
    root = peaks[-1]
    for at in range(len(peaks) - 2, -1, -1):
        root = sha256(b"\x01" + peaks[at] + root).digest()
    return root


def covering_nodes(start: int, end: int) -> list[tuple[int, int]]:
    """The complete nodes (height, index) of falling height that cover the leaves [start, end).

    `start` must be a multiple of the smallest power of two that is not below end - start, as every range is that the
    recursive definitions of RFC 6962 split off; then the fold of these nodes is the range's hash.
    """
    nodes = []
    while start < end:
        height = (end - start).bit_length() - 1
        nodes.append((height, start >> height))
        start += 1 << height
    return nodes


def tree_root(size: int, read: NodeReader) -> bytes:
    """MTH(D[0:size]) from complete nodes (RFC 6962 section 2.1)."""
    return _range_root(0, size, read)


def _range_root(start: int, end: int, read: NodeReader) -> bytes:
    return fold_peaks([read(height, index) for height, index in covering_nodes(start, end)])


def _split(count: int) -> int:
    """The largest power of two below `count` (count > 1)."""
    return 1 << ((count - 1).bit_length() - 1)


def inclusion_proof(index: int, size: int, read: NodeReader) -> list[bytes]:
    """PATH(index, D[size]) of RFC 6962 section 2.1.1: siblings from the leaf upwards. Raises ValueError outside."""
    if not 0 <= index < size:
        raise ValueError(f"no leaf {index} in a tree of {size}")
    path = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(_range_root(middle, end, read))
            end = middle
        else:
            path.append(_range_root(start, middle, read))
            start = middle
    path.reverse()
    return path


def consistency_proof(old_size: int, size: int, read: NodeReader) -> list[bytes]:
    """PROOF(old_size, D[size]) of RFC 6962 section 2.1.2; empty when the sizes are equal. Raises ValueError outside."""
    if not 0 < old_size <= size:
        raise ValueError(f"no consistency proof from size {old_size} to {size}")
    proof = []
    start, end, whole = 0, size, True
    while old_size != end:
        middle = start + _split(end - start)
        if old_size <= middle:
            proof.append(_range_root(middle, end, read))
            end = middle
        else:
            proof.append(_range_root(start, middle, read))
            start, whole = middle, False
    if not whole:
        proof.append(_range_root(start, end, read))
    proof.reverse()
    return proof


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that the leaf hash `leaf` stands at `index` in the tree (RFC 9162 section 2.1.3.2). Raises ProofError."""
    if not 0 <= index < size:
        raise ProofError(f"no leaf {index} in a tree of {size}")
    at, last, computed = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise ProofError("the inclusion proof is too long")
        if at & 1 or at == last:
            computed = node_hash(sibling, computed)
            while not at & 1 and at:
                at >>= 1
                last >>= 1
        else:
            computed = node_hash(computed, sibling)
        at >>= 1
        last >>= 1
    if last:
        raise ProofError("the inclusion proof is too short")
    if computed != root:
        raise ProofError("the inclusion proof leads to another root")


def verify_consistency(old_size: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the tree of `size` begins with the one of `old_size` (RFC 9162 section 2.1.4.2). Raises ProofError.

    Every tree begins with the empty one; equal sizes need equal roots; both with an empty proof.
    """
    if not 0 <= old_size <= size:
        raise ProofError(f"a tree of {size} does not begin with one of {old_size}")
    if old_size in {0, size}:
        if proof:
            raise ProofError("the consistency proof is too long")
        if old_root != (EMPTY_ROOT if old_size == 0 else root) or (size == 0 and root != EMPTY_ROOT):
            raise ProofError("two trees of one size have different roots")
        return
    nodes = list(proof)
    if old_size & (old_size - 1) == 0:
        nodes.insert(0, old_root)
    if not nodes:
        raise ProofError("the consistency proof is empty")
    at, last = old_size - 1, size - 1
    while at & 1:
        at >>= 1
        last >>= 1
    old_computed = computed = nodes[0]
    for sibling in nodes[1:]:
        if last == 0:
            raise ProofError("the consistency proof is too long")
        if at & 1 or at == last:
            old_computed = node_hash(sibling, old_computed)
            computed = node_hash(sibling, computed)
            while not at & 1 and at:
                at >>= 1
                last >>= 1
        else:
            computed = node_hash(computed, sibling)
        at >>= 1
        last >>= 1
    if last:
        raise ProofError("the consistency proof is too short")
    if old_computed != old_root:
        raise ProofError("the consistency proof leads to another old root")
    if computed != root:
        raise ProofError("the consistency proof leads to another new root")
