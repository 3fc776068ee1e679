"""The catalogue: the file that ships is right, and a wrong one is refused with the plan and the key that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailgate.errors import ConfigurationError
from mailgate.tenants.catalogue import parse_catalogue

SHIPPED = Path(__file__).parents[3] / "config" / "plans.toml"
FREE = '[plans.free]\ntitle = "Free"\nrank = 0\nsync = false\nretention_days = 0\n'


def test_the_plans_that_ship_keep_what_is_sold() -> None:
    catalogue = parse_catalogue(SHIPPED.read_bytes())
    days = {name: (plan.retention_days, plan.sync) for name, plan in catalogue.plans.items()}
    assert days == {
        "free": (0, False),
        "crm_plus": (30, True),
        "demo": (30, True),
        "standard": (60, True),
        "professional": (90, True),
        "nfr": (90, True),
    }
    assert catalogue.longest_days == 90
    assert catalogue.plan("gold") is None
    mailboxes = {name: plan.mailboxes_per_user for name, plan in catalogue.plans.items()}
    assert (mailboxes["crm_plus"], mailboxes["standard"], mailboxes["professional"], mailboxes["demo"]) == (
        5,
        5,
        10,
        10,
    )


def test_the_hash_is_of_the_bytes() -> None:
    one = parse_catalogue(("version = 1\n" + FREE).encode())
    two = parse_catalogue(("version = 1\n\n" + FREE).encode())
    assert one.plans == two.plans
    assert one.sha256 != two.sha256


def test_a_mark_that_editors_put_in_front_is_no_fault() -> None:
    assert parse_catalogue(b"\xef\xbb\xbfversion = 1\n" + FREE.encode()).version == 1


PAID = '[plans.paid]\ntitle = "Paid"\nrank = 1\nsync = true\nretention_days = 30\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("version = \n", "is no TOML.*line 1"),
        ("version = 1\n# \xff", "line 2 is not in UTF-8"),
        (FREE, "version"),
        ("version = true\n" + FREE, "version"),
        ("version = 0\n" + FREE, "version"),
        ("version = 1\n", "no \\[plans"),
        ("version = 1\nplans = 3\n", "no \\[plans"),
        ("version = 1\n" + PAID, "no plan `free`"),
        (
            "version = 1\n" + FREE.replace("sync = false", "sync = true").replace("days = 0", "days = 1"),
            "must have sync",
        ),
        ("version = 1\nplans.free = 1\n", "must be a table"),
        ("version = 1\n" + FREE + "retenton = 3\n", "unknown keys: retenton"),
        ("version = 1\n" + FREE.replace("rank = 0\n", ""), "needs `rank`, which is a whole number"),
        ("version = 1\n" + FREE.replace("rank = 0", "rank = true"), "needs `rank`, which is a whole number"),
        ("version = 1\n" + FREE.replace("sync = false", "sync = 0"), "needs `sync`, which is true or false"),
        ("version = 1\n" + FREE + PAID + "mailboxes_per_user = -1\n", "plans.paid.*mailboxes_per_user"),
        ("version = 1\n" + FREE + PAID + "mailboxes_per_user = true\n", "plans.paid.*mailboxes_per_user"),
        ("version = 1\n" + FREE + PAID + f"storage_bytes = {2**53}\n", "storage_bytes.*9007199254740991"),
        ("version = 1\n" + FREE.replace("sync = false", "sync = true"), "must have sync = false"),
        ("version = 1\n" + FREE + "on_sale = true\n", "can't be bought"),
        ("version = 1\n" + FREE + PAID + "on_sale = true\n", "plans.paid.*on sale without `prices`"),
        ("version = 1\n" + FREE + PAID.replace("rank = 1", "rank = 0"), "plans.paid.*rank above that of `free`"),
        ("version = 1\n" + FREE + PAID + "prices = { 6 = 1 }\n", "plans.paid.*6 is none of the terms"),
        ("version = 1\n" + FREE + PAID + "sent_per_month = 1\nsent_reserved = 2\n", "a part of sent_per_month"),
        ("version = 1\n" + FREE.replace("days = 0", "days = -1"), "from 0 to 36500"),
        ("version = 1\n" + FREE + PAID.replace("days = 30", "days = 0"), "at least a day"),
    ],
)
def test_a_wrong_file_is_refused_and_says_why(text: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        parse_catalogue(text.encode("latin-1"))
