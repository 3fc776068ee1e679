"""Two hands on one mailbox, undisturbed, over a line that is cut again and again, and with the gateway killed again and
again: when both are done, one pass makes both sides equal; nothing is lost, and nothing is there twice.

A few dozen things in `make test`, an hour's worth in `make soak`.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.courier import Courier
from tests.cyrus import Cyrus
from tests.dovecot import Dovecot
from tests.proxy import Faults, Proxy
from tests.server.two_hands import Crm, Gateway, Login, Numbers, Person, serving
from tests.servers import find_program, leave_out

SEEDED = 30
DEEDS = [  # each starts a program or two: how long that takes is up to what else the machine does
    pytest.param(12, marks=pytest.mark.timeout(900)),
    pytest.param(600, marks=[pytest.mark.soak, pytest.mark.timeout(3_000)]),
]


@pytest.fixture(params=["dovecot", "cyrus", pytest.param("courier", marks=pytest.mark.soak)])
def login(request: pytest.FixtureRequest) -> Login:
    """A new mailbox on each server."""
    if request.param == "dovecot":
        dovecot: Dovecot = request.getfixturevalue("dovecot")
        account = dovecot.account()
        return Login(dovecot.port, account.name, account.password)
    if request.param == "courier":
        courier: Courier = request.getfixturevalue("courier")
        return Login(courier.port, *courier.account(), folders=("INBOX", "INBOX.Work", "INBOX.Trash"), moves=False)
    cyrus: Cyrus = request.getfixturevalue("cyrus")
    return Login(cyrus.port, *cyrus.account())


@pytest.fixture
async def line(login: Login) -> AsyncIterator[Proxy]:
    """The gateway's way to the server."""
    async with Proxy("127.0.0.1", login.port) as proxy:
        yield proxy


@pytest.mark.server
@pytest.mark.parametrize("trouble", ["none", "cuts", "kills"])
@pytest.mark.parametrize("deeds", DEEDS)
async def test_two_hands_on_one_mailbox(login: Login, line: Proxy, tmp_path: Path, trouble: str, deeds: int) -> None:
    for program, package in (("mbsync", "isync"), ("neomutt", "neomutt")):
        if find_program(program) is None:
            leave_out(program, package)
    dice = random.Random(f"{trouble} {deeds}")
    numbers = Numbers()
    await asyncio.to_thread(_furnish, login, numbers)
    person = Person(login, tmp_path, numbers, random.Random(dice.random()))
    gateway = Gateway(tmp_path)
    crm = Crm(gateway, numbers, random.Random(dice.random()))
    async with serving(gateway, crm):
        await crm.connect(login, line.port)
        troubles = 0

        async def persons_part() -> None:
            for _ in range(deeds):
                await asyncio.to_thread(person.act)

        async def scripts_part() -> None:
            nonlocal troubles
            for deed in range(deeds * 3):
                await crm.act()
                if deed % 6 == 5 and trouble == "cuts":
                    line.faults = Faults(cut_after=dice.randrange(200, 20_000))
                    line.cut()
                    troubles += 1
                if deed % 15 == 14 and trouble == "kills":
                    await asyncio.to_thread(gateway.kill)
                    gateway.start()
                    troubles += 1

        await asyncio.gather(persons_part(), scripts_part())
        line.faults = Faults()
        line.cut()
        assert troubles >= (0 if trouble == "none" else deeds // 10)

        await crm.settle()
        assert await crm.everything() == await asyncio.to_thread(login.everything), await crm.failed()
        standing = await asyncio.to_thread(login.numbers)
        maybe_two = numbers.copied | await crm.moved_at_once()
        assert [n for n, often in standing.items() if often != 1 and n not in maybe_two] == [], numbers.moved
        assert {n: ids for n, ids in crm.known_as.items() if len(ids) != 1 and n not in maybe_two} == {}
        assert numbers.made - numbers.wished_away - set(standing) == set()
        assert sum(crm.done[f"{what} 202"] for what in ("flags", "move", "delete", "append")) > deeds
        print(f"\n{trouble}: {dict(crm.done)}; failed: {Counter(await crm.failed())}; {len(standing)} messages stand")


def _furnish(login: Login, numbers: Numbers) -> None:
    with login.imap() as line:
        for folder in login.folders[1:]:
            line.create(folder)
        for number in range(SEEDED):
            status, answer = line.append(login.folders[number % 2], "", None, numbers.new()[1])
            assert status == "OK", answer
