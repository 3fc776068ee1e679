"""What the core says in English is said in the reader's language, from the very sentences that the core makes."""

from __future__ import annotations

import re

import pytest
from markupsafe import escape

from mailgate.admin import details
from mailgate.admin.languages import language
from mailgate.alarms import Facts, Failing, Limits, WordsLeft, decide
from mailgate.app.health import _HELD_UP
from mailgate.clock import DAY, HOUR, Instant
from mailgate.store.kept_outside import why_lost
from mailgate.store.latest_time import jumped
from mailgate.sync.guards import Disappearance, judge
from retention.engine import _halted
from tests.unit.admin.texts import OTHERS

NOW: Instant = 1_795_953_600_000_000
RUN = "01M7WM6FE40SAGPPKGDGQGGRQH"
ENGLISH = re.compile(r"\b(the|is|are|of|since|not|no)\b")
GONE = ", 2 of them went before it stopped"
APPROVED = " (30 were approved)"
FACTS = Facts(
    first_tenant_at=NOW - 9 * DAY,
    clock=jumped("back", NOW, NOW + DAY),
    halted={
        "acme": f"run {RUN} halted, 30 of 40 copies would go",
        "cut": f"run {RUN} halted, 30 of 40 copies would go, 12 of them went before it stopped",
        "few": f"run {RUN} halted, 35 of 40 copies would go{APPROVED}",
    },
    failing={"acme": Failing(2, NOW - HOUR, "disk full"), "one": Failing(1, NOW - HOUR, "disk full")},
    plans_unknown={"acme": "gold"},
    unsigned={"acme": NOW - DAY, "bad": NOW - DAY},
    diverged={"bad": "entry 7 of the purge log is not what was hashed: compare the database with its backups, x"},
    lost={"gone": why_lost("gone", "ref")},
    words_left=WordsLeft(3, NOW - DAY, moved=False),
    hooks={
        None: f"webhook {RUN} to a.example: no answer within 15 s; mailbox.state_changed acme:3 is not delivered; "
        f"webhook {RUN} to b.example: the receiver answered 302 (redirects are not followed); message.created acme:4 "
        "is not delivered"
    },
)
PARTS = (
    "no answer within 5 s",
    _HELD_UP,
    "not working: sign, purge; the log says why",
    "12 events wait for their place in the feed since 2026-11-29T12:00:00Z",
    "on the same disk as the database: a rollback of both would go unseen; set ledger.witness elsewhere",
    "the database does not answer: gone",
    "nothing can be written: disk full; nothing is purged until it can",
)


GUARDS = judge(
    [
        Disappearance("1", "Clients", None, 100, 100),
        Disappearance("2", "Projects", None, 100, 100, listed=False),
        Disappearance("3", "Offers", None, 200, 90, recent=10),
        *(Disappearance(f"{n}", f"F{n}", None, 60, 30) for n in range(4, 8)),
    ]
)


@pytest.mark.parametrize("code", OTHERS)
def test_alarms_and_parts_are_said_in_every_language(code: str) -> None:
    words = language(code)
    alarms = decide(FACTS, {}, NOW, Limits())
    assert len(alarms) == 13
    assert len(GUARDS) == 7
    more = ("", GONE, APPROVED, GONE + APPROVED)
    halted = _halted([f"t{n}: 3 of 4 copies would go{tail}" for n, tail in enumerate(more)])
    clock = f"{jumped('forward', NOW, 0)}. Set the clock right, or approve it (approve_clock)."
    for text in (*(alarm.detail for alarm in alarms), *PARTS, *GUARDS.values(), halted, clock):
        shown = details.detail(words, text)
        assert "lang=" not in shown, text
        assert not ENGLISH.search(re.sub(r"disk full|gone", "", shown)), (text, shown)
        for figure in re.findall(r"\b\d\d?\b(?!:|-)", re.sub(r"\d{4}-\S+", "", text)):
            assert figure in shown, (text, shown)
        assert details.detail(language("en"), text) == escape(text)


def test_what_is_not_known_stays_as_it_came_and_says_that_it_is_english() -> None:
    french = language("fr")
    fault = "plans.toml, line 3: <b>unknown key</b>; the plans that held before hold on"
    assert details.detail(french, fault) == (
        '<span lang="en">plans.toml, line 3: &lt;b&gt;unknown key&lt;/b&gt;</span>; '
        "les forfaits d&#39;avant restent valables"
    )
    assert details.detail(french, "something else") == '<span lang="en">something else</span>'
