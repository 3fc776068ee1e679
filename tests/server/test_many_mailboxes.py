"""Many mailboxes in one gateway process against Dovecot, over TLS: all live, new mail committed, and nothing needless
said or written by those that are idle. The benchmark's own parts, with few mailboxes and no judgement of time.
"""

from __future__ import annotations

import pytest

from tests.bench.bench_mailboxes import MAILS_EACH, deliver, mail, measure, measure_bare, seed
from tests.dovecot import Dovecot

pytestmark = pytest.mark.server

MAILBOXES = 30
MAILS = 10
IDLE_S = 4.0
POLL_S = 2


def test_all_live_and_idle_ones_are_quiet(own_dovecot: Dovecot) -> None:
    accounts = seed(own_dovecot, MAILBOXES)
    sync = {"poll_interval_s": POLL_S, "lease_s": 30}
    bare = measure_bare(own_dovecot, accounts, tls=True)
    found = measure(own_dovecot, accounts, tls=True, mails=MAILS, idle_s=IDLE_S, sync=sync)
    assert bare["live_s"] > 0
    assert found["first"]["live_s"] > 0
    assert found["again"]["live_s"] > 0
    assert found["mail"]["count"] > 0
    polls = 60 / POLL_S
    idle = found["idle"]
    # In one poll: LIST, LIST-STATUS, EXAMINE and IDLE with its DONE; whatever the size of the mailbox.
    assert idle["sent"] / polls < 400
    assert idle["received"] / polls < 4_000
    # Nothing is written by a mailbox alone: when each was looked at goes into one transaction a second for all.
    assert idle["transactions"] / polls < 0.5
    assert idle["reads"] / polls < 40


def test_the_benchmark_delivers_what_it_says(own_dovecot: Dovecot) -> None:
    accounts = seed(own_dovecot, 2)
    deliver(accounts, 3)
    bodies = [raw for account in accounts for _, raw in account.originals().values()]
    assert len(bodies) == 2 * MAILS_EACH + 3
    assert mail(1_000_000) in bodies
