"""The Merkle tree against the recursive definitions of RFC 6962, sections 2.1 to 2.1.2, written down as they stand."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retention.ledger.tree import (
    EMPTY_ROOT,
    Frontier,
    ProofError,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    tree_root,
    verify_consistency,
    verify_inclusion,
)

SIZES = st.integers(1, 300)


def data(count: int) -> list[bytes]:
    return [b"%d" % n for n in range(count)]


def split(n: int) -> int:
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def mth(d: list[bytes]) -> bytes:
    if not d:
        return sha256(b"").digest()
    if len(d) == 1:
        return sha256(b"\x00" + d[0]).digest()
    k = split(len(d))
    return sha256(b"\x01" + mth(d[:k]) + mth(d[k:])).digest()


def path(m: int, d: list[bytes]) -> list[bytes]:
    if len(d) == 1:
        return []
    k = split(len(d))
    return [*path(m, d[:k]), mth(d[k:])] if m < k else [*path(m - k, d[k:]), mth(d[:k])]


def subproof(m: int, d: list[bytes], whole: bool) -> list[bytes]:
    if m == len(d):
        return [] if whole else [mth(d)]
    k = split(len(d))
    if m <= k:
        return [*subproof(m, d[:k], whole), mth(d[k:])]
    return [*subproof(m - k, d[k:], False), mth(d[:k])]


class Nodes:
    """Complete nodes of a list of entries, by definition."""

    def __init__(self, d: list[bytes]) -> None:
        self.d = d

    def __call__(self, height: int, index: int) -> bytes:
        part = self.d[index << height : (index + 1) << height]
        assert len(part) == 1 << height, "only complete nodes may be asked for"
        return mth(part)


@given(st.integers(0, 300))
def test_frontier_root_is_the_definition(size: int) -> None:
    d = data(size)
    frontier = Frontier()
    frontier.extend(map(leaf_hash, d))
    assert (frontier.size, frontier.root()) == (size, mth(d))
    assert tree_root(size, Nodes(d)) == mth(d)


@given(st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=12))
def test_frontier_survives_any_cut(steps: list[tuple[int, bool]]) -> None:
    frontier, d = Frontier(), []
    for count, stored in steps:
        new = [b"%d" % n for n in range(len(d), len(d) + count)]
        d += new
        frontier.extend(map(leaf_hash, new))
        if stored:
            raw = frontier.to_bytes()
            assert len(raw) == 8 + 32 * len(d).bit_count()
            frontier = Frontier.from_bytes(raw)
            assert frontier.to_bytes() == raw
        assert frontier.root() == mth(d)
        assert Frontier.from_nodes(len(d), Nodes(d)).peaks == frontier.peaks


@given(SIZES, st.data())
def test_inclusion_proof_is_the_definition_and_verifies(size: int, draw: st.DataObject) -> None:
    index = draw.draw(st.integers(0, size - 1))
    d = data(size)
    proof = inclusion_proof(index, size, Nodes(d))
    assert proof == path(index, d)
    verify_inclusion(leaf_hash(d[index]), index, size, proof, mth(d))


@given(SIZES, st.data())
def test_consistency_proof_is_the_definition_and_verifies(size: int, draw: st.DataObject) -> None:
    old = draw.draw(st.integers(1, size))
    d = data(size)
    proof = consistency_proof(old, size, Nodes(d))
    assert proof == subproof(old, d, True)
    verify_consistency(old, mth(d[:old]), size, mth(d), proof)


@given(SIZES, st.data())
def test_a_changed_inclusion_proof_is_refused(size: int, draw: st.DataObject) -> None:
    index = draw.draw(st.integers(0, size - 1))
    d = data(size)
    proof, leaf, root = path(index, d), leaf_hash(d[index]), mth(d)
    changes = ["leaf", "root", "longer", "index"] + (["bit", "shorter"] if proof else [])
    change = draw.draw(st.sampled_from(changes))
    if change == "leaf":
        leaf = leaf_hash(d[index] + b"!")
    elif change == "root":
        root = sha256(root).digest()
    elif change == "longer":
        proof = [*proof, root]
    elif change == "shorter":
        proof = proof[:-1]
    elif change == "index":
        index = draw.draw(st.integers(-1, size).filter(lambda n: n != index))
    else:
        at = draw.draw(st.integers(0, len(proof) - 1))
        proof[at] = flip(proof[at], draw.draw(st.integers(0, 255)))
    with pytest.raises(ProofError):
        verify_inclusion(leaf, index, size, proof, root)


@given(SIZES, st.data())
def test_a_changed_consistency_proof_is_refused(size: int, draw: st.DataObject) -> None:
    old = draw.draw(st.integers(1, size))
    d = data(size)
    proof, old_root, root = subproof(old, d, True), mth(d[:old]), mth(d)
    change = draw.draw(st.sampled_from(["old_root", "root", "longer", "swap"] + (["bit", "shorter"] if proof else [])))
    new_size = size
    if change == "old_root":
        old_root = sha256(old_root).digest()
    elif change == "root":
        root = sha256(root).digest()
    elif change == "longer":
        proof = [*proof, root]
    elif change == "shorter":
        proof = proof[:-1]
    elif change == "swap":
        old, new_size = size + 1, old
    else:
        at = draw.draw(st.integers(0, len(proof) - 1))
        proof[at] = flip(proof[at], draw.draw(st.integers(0, 255)))
    with pytest.raises(ProofError):
        verify_consistency(old, old_root, new_size, root, proof)


@given(st.integers(2, 300), st.data())
def test_a_forked_log_has_no_proof(size: int, draw: st.DataObject) -> None:
    """R16: what was signed at one size can't be another history at a later size, whatever honest proof is tried."""
    old = draw.draw(st.integers(1, size - 1))
    d = data(size)
    fork = d.copy()
    fork[draw.draw(st.integers(0, old - 1))] += b" forked"
    for proof in (subproof(old, d, True), subproof(old, fork, True)):
        with pytest.raises(ProofError):
            verify_consistency(old, mth(d[:old]), size, mth(fork), proof)


@given(st.integers(0, 200))
def test_every_log_begins_with_the_empty_one(size: int) -> None:
    verify_consistency(0, EMPTY_ROOT, size, mth(data(size)), [])
    with pytest.raises(ProofError):
        verify_consistency(0, sha256(b"x").digest(), size, mth(data(size)), [])


@given(st.binary(max_size=200))
def test_frontier_from_any_bytes(raw: bytes) -> None:
    try:
        frontier = Frontier.from_bytes(raw)
    except ValueError:
        return
    assert frontier.to_bytes() == raw


def flip(value: bytes, bit: int) -> bytes:
    return (int.from_bytes(value, "big") ^ (1 << bit)).to_bytes(len(value), "big")
