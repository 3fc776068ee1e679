"""Threads are what the references say, whatever the order of messages, and however they are cut in batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from mailgate.messages.model import Summary
from mailgate.messages.threads import LINKS, Arriving, Threading, bounded, thread, thread_links


class Mail(NamedTuple):
    """A message: its number here, and what its headers say."""

    n: int
    summary: Summary

    @property
    def names(self) -> tuple[bytes, ...]:
        own = self.summary.rfc_message_id
        return tuple(id_.encode() for id_ in (*((own,) if own else ()), *thread_links(self.summary)))


@dataclass
class Box:
    """A store as it looks names up: all messages, by the thread in which each is."""

    threads: dict[int, str] = field(default_factory=dict)
    mail: dict[int, Mail] = field(default_factory=dict)

    def add(self, batch: Sequence[Mail]) -> None:
        known: dict[bytes, set[str]] = {}
        for mail in self.mail.values():
            for name in mail.names:
                known.setdefault(name, set()).add(self.threads[mail.n])
        assert all(len(found) == 1 for found in known.values())  # so the store looks at one holder of a name
        arriving = [Arriving(f"m{mail.n}", mail.names) for mail in batch]
        threads, joined = thread(arriving, known)
        assert not set(joined) & set(joined.values())
        for n, old in self.threads.items():
            self.threads[n] = joined.get(old, old)
        for mail in batch:
            self.mail[mail.n] = mail
            self.threads[mail.n] = threads[f"m{mail.n}"]

    def parts(self) -> set[frozenset[int]]:
        found: dict[str, set[int]] = {}
        for n, thread_id in self.threads.items():
            found.setdefault(thread_id, set()).add(n)
        return {frozenset(part) for part in found.values()}


def components(mails: Iterable[Mail]) -> set[frozenset[int]]:
    """The same, slowly: whoever shares a name with somebody is in one part with them."""
    parts: list[tuple[set[int], set[bytes]]] = []
    for mail in mails:
        mine: tuple[set[int], set[bytes]] = ({mail.n}, set(mail.names))
        apart = []
        for part in parts:
            if part[1] & mine[1]:
                mine = (mine[0] | part[0], mine[1] | part[1])
            else:
                apart.append(part)
        parts = [*apart, mine]
    return {frozenset(numbers) for numbers, _ in parts}


def id_of(n: int) -> str:
    return f"<{n}@x>"


NODES = st.integers(0, 11)
HEADERS = st.builds(
    Summary,
    rfc_message_id=st.none() | NODES.map(id_of),  # doubles, and messages without one
    in_reply_to=st.lists(NODES.map(id_of), max_size=2).map(tuple),
    references=st.lists(NODES.map(id_of), max_size=6, unique=True).map(tuple),  # cycles and forgeries among them
)


def cut(mails: Sequence[Mail], sizes: Sequence[int]) -> list[Sequence[Mail]]:
    batches, start = [], 0
    for size in [*sizes, len(mails)]:
        batches.append(mails[start : start + size])
        start += size
    return [batch for batch in batches if batch]


@given(st.lists(HEADERS, max_size=14), st.randoms(use_true_random=False), st.lists(st.integers(1, 4), max_size=14))
def test_any_order_gives_the_same_threads(headers: list[Summary], random: Random, sizes: list[int]) -> None:
    mails = [Mail(n, summary) for n, summary in enumerate(headers)]
    expected = components(mails)
    random.shuffle(mails)
    box = Box()
    for batch in cut(mails, sizes):
        box.add(batch)
    assert box.parts() == expected


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[Mail], Mapping[int, int]]:
    """Messages of honest conversations, each by its parent or by none; and whose first message each belongs to."""
    mails: list[Mail] = []
    roots: dict[int, int] = {}
    chains: dict[int, tuple[str, ...]] = {}
    for n in range(draw(st.integers(1, 12))):
        parent = draw(st.none() | st.integers(0, n - 1)) if n else None
        chains[n] = () if parent is None else (*chains[parent], id_of(parent))
        roots[n] = n if parent is None else roots[parent]
        told = draw(st.sampled_from(["both", "parent"]))
        mails.append(
            Mail(
                n,
                Summary(
                    rfc_message_id=id_of(n),
                    in_reply_to=chains[n][-1:],
                    references=chains[n] if told == "both" else (),
                ),
            )
        )
    return mails, roots


@given(conversations(), st.randoms(use_true_random=False))
def test_whole_conversations_are_one_thread_each(made: tuple[list[Mail], Mapping[int, int]], random: Random) -> None:
    mails, roots = made
    random.shuffle(mails)
    box = Box()
    for mail in mails:
        box.add([mail])
    whole: dict[int, set[int]] = {}
    for n, first in roots.items():
        whole.setdefault(first, set()).add(n)
    assert box.parts() == {frozenset(part) for part in whole.values()}


@given(st.lists(NODES.map(id_of), max_size=12, unique=True), st.lists(NODES.map(id_of), max_size=3), NODES.map(id_of))
def test_links_are_few(references: list[str], in_reply_to: list[str], own: str) -> None:
    summary = Summary(rfc_message_id=own, references=tuple(references), in_reply_to=tuple(in_reply_to))
    links = thread_links(summary)
    assert len(links) <= LINKS
    assert len(set(links)) == len(links)
    assert own not in links
    assert set(in_reply_to[:1] + references[-1:] + references[:1]) - {own} <= set(links)


def test_a_forged_message_joins_no_more_than_it_may_name() -> None:
    box = Box()
    box.add([Mail(n, Summary(rfc_message_id=id_of(n))) for n in range(50)])
    box.add([Mail(99, Summary(rfc_message_id="<evil@x>", references=tuple(id_of(n) for n in range(50))))])
    assert sorted(map(len, box.parts()), reverse=True)[:2] == [4, 1]


def test_the_least_id_stays() -> None:
    arriving = [Arriving("m", (b"m", b"a", b"b"))]
    assert thread(arriving, {b"a": {"t2"}, b"b": {"t1"}}) == ({"m": "t1"}, {"t2": "t1"})
    assert thread([Arriving("m", ())], {}) == ({"m": "m"}, {})
    assert thread([Arriving("n", (b"x",)), Arriving("m", (b"x",))], {}) == ({"m": "m", "n": "m"}, {})


@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 12), min_size=8),
    st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=5, unique=True), max_size=3),
    st.integers(0, 12),
)
def test_few_messages_move_and_who_stays_apart_stays_whole(
    sizes: dict[str, int], groups: list[list[str]], most: int
) -> None:
    apart = []
    for group in groups:  # as `thread` gives them: no thread in two
        new = [id_ for id_ in group if not any(id_ in other for other in apart)]
        apart += [sorted(new)] if len(new) > 1 else []
    joined = {id_: group[0] for group in apart for id_ in group[1:]}
    arriving = {f"m{group[0]}": group[0] for group in apart}
    after = bounded(Threading(arriving, joined), sizes, most)
    assert sum(sizes[id_] for id_ in after.joined) <= most
    for group in apart:
        (stays,) = {after.threads[f"m{group[0]}"]}
        assert stays in group
        moved = {id_ for id_ in group if id_ in after.joined}
        assert moved in (set(), set(group) - {stays})
        if sum(sizes[id_] for id_ in group) <= most and len(apart) == 1:
            assert after.joined == dict.fromkeys(group[1:], group[0])


def test_the_largest_stays_where_too_many_would_move() -> None:
    threading = Threading({"m": "a"}, {"b": "a", "c": "a"})
    assert bounded(threading, {"a": 1, "b": 9, "c": 2}, 5) == Threading({"m": "b"}, {"a": "b", "c": "b"})
    assert bounded(threading, {"a": 6, "b": 9, "c": 2}, 5) == Threading({"m": "a"}, {})
