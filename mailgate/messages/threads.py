"""Which conversation (thread) a message belongs to.

Message ids are *names* of a thread: a message's own, and the few that it refers to. Two messages are in one thread when
a chain of messages leads from one to the other, each sharing a name with the next. What shares a name with what does
not depend on who came first, so any order of arrival gives the same threads, also where a link comes late or never.

A forged message can refer to any ids; that it refers to `LINKS` at most bounds how many threads it can draw together,
and `MOVED` how many messages that takes. What is beyond it stays apart, whatever the order.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from mailgate.messages.model import Summary

LINKS: Final = 4
"""How many of the messages that it refers to a message is joined to, at most."""

MOVED: Final = 1_000
"""How many messages get another thread in one transaction because threads are joined, at most."""


def thread_links(message: Summary) -> tuple[str, ...]:
    """The ids by which a message joins others: what it answers, the last two of References (RFC 5322 §3.6.4: its parent
    and the parent's parent) and the first, each once; never its own.

    The first is what all answers of a conversation have in common, though the messages between were never received. Of
    References that were cut the last ones are left.
    """
    chosen = [*message.in_reply_to[:1], *message.references[-2:], *message.references[:1]]
    return tuple(dict.fromkeys(id_ for id_ in chosen if id_ != message.rfc_message_id))


@dataclass(frozen=True, slots=True)
class Arriving:
    """A message on its way into the store, and its names, as tokens."""

    id: str
    names: tuple[bytes, ...]


class Threading(NamedTuple):
    """The thread of each message that arrives, by id; and for threads that were several until now, which they become a
    part of.
    """

    threads: dict[str, str]
    joined: dict[str, str]


def thread(arriving: Sequence[Arriving], known: Mapping[bytes, Collection[str]]) -> Threading:
    """Put messages into threads. `known`: the threads in which each name stands already.

    A thread that begins has the least id of its messages; of threads that become one the least stays.
    """
    parents: dict[bytes | str, bytes | str] = {}  # of names and of threads that are known (str): a union-find forest

    def root(node: bytes | str) -> bytes | str:
        while (parent := parents.setdefault(node, node)) != node:
            parents[node] = node = parents[parent]
        return node

    for message in arriving:
        for name in message.names:
            parents[root(name)] = root(message.names[0])
            for found in known.get(name, ()):
                parents[root(found)] = root(name)
    stays: dict[bytes | str, str] = {}
    standing = [node for node in parents if isinstance(node, str)]
    for found in standing:
        stays[root(found)] = min(found, stays.get(root(found), found))
    begun: dict[bytes | str, str] = {}
    for message in arriving:
        if message.names:
            top = root(message.names[0])
            begun[top] = min(message.id, begun.get(top, message.id))
    threads = {}
    for message in arriving:
        top = root(message.names[0]) if message.names else message.id
        threads[message.id] = stays.get(top) or begun.get(top, message.id)
    return Threading(threads, {found: stays[root(found)] for found in standing if stays[root(found)] != found})


def groups(joined: Mapping[str, str]) -> list[list[str]]:
    """The threads that become one, each with those that are joined to it; it comes first."""
    found: dict[str, list[str]] = {}
    for old, stays in joined.items():
        found.setdefault(stays, [stays]).append(old)
    return list(found.values())


def bounded(threading: Threading, sizes: Mapping[str, int], most: int = MOVED) -> Threading:
    """The same, moving `most` messages at most. `sizes`: how many each thread that is joined has now, or any number
    beyond `most`.

    Where too many would move the largest thread stays in place of that with the least id; where too many would even so,
    the threads stay apart, and what arrives is in the one with the least id.
    """
    joined: dict[str, str] = {}
    becomes: dict[str, str] = {}
    for group in sorted(groups(threading.joined), key=lambda group: (sum(sizes[id_] for id_ in group), group)):
        largest = max(group, key=lambda id_: sizes[id_])
        for stays in (group[0], largest):
            moved = sum(sizes[id_] for id_ in group if id_ != stays)
            if moved <= most:
                most -= moved
                joined |= {id_: stays for id_ in group if id_ != stays}
                becomes[group[0]] = stays
                break
    return Threading({id_: becomes.get(found, found) for id_, found in threading.threads.items()}, joined)
