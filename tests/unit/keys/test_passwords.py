"""Passwords and one-time codes: what is kept of them opens nothing, what is wrong is refused, nothing counts twice."""

from __future__ import annotations

import pyotp
import pytest
from argon2 import PasswordHasher

from mailgate.clock import SECOND
from mailgate.keys import onetime, passwords
from mailgate.keys.passwords import Passwords

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
NOW = 1_800_000_000 * SECOND


async def test_a_password_is_kept_as_argon2id_and_compared() -> None:
    made = Passwords(CHEAP)
    kept = await made.hash("correct horse battery")
    assert kept.startswith("$argon2id$")
    assert "horse" not in kept
    assert await made.matches(kept, "correct horse battery")
    for wrong in ("correct horse batterY", "", "x" * 1_001):
        assert not await made.matches(kept, wrong)
    assert not await made.matches("nonsense", "correct horse battery")


async def test_nobody_has_no_password_and_is_looked_at_all_the_same() -> None:
    looked: list[str] = []

    class Watched(PasswordHasher):
        def verify(self, hash: str | bytes, password: str | bytes) -> bool:  # noqa: A002 - the library's name
            looked.append(str(password))
            return bool(super().verify(hash, password))

    made = Passwords(Watched(time_cost=1, memory_cost=8, parallelism=1))
    for guess in ("a guess", "the password of nobody"):
        assert not await made.matches(None, guess)
    assert looked == ["a guess", "the password of nobody"]


async def test_what_was_hashed_with_less_is_hashed_anew() -> None:
    made = Passwords(CHEAP)
    kept = await made.hash("correct horse battery")
    assert not made.outdated(kept)
    assert Passwords(PasswordHasher()).outdated(kept)


@pytest.mark.parametrize(
    ("password", "fault"),
    [("short", "short"), ("x" * 12, None), ("x" * 1_000, None), ("x" * 1_001, "long"), ("Ann@Example.com", "name")],
)
def test_only_length_and_the_name_are_judged(password: str, fault: str | None) -> None:
    assert passwords.fault(password, "ann@example.com") == fault


def test_a_code_is_of_this_step_or_a_neighbour() -> None:
    secret = onetime.new_secret()
    totp, step = pyotp.TOTP(secret), NOW // SECOND // 30
    for offset in (-2, -1, 0, 1, 2):
        found = onetime.step_of(secret, totp.generate_otp(step + offset), NOW)
        assert found == (step + offset if abs(offset) < 2 else None)
    for nonsense in ("", "12345", "abcdef", "１２３４５６", "9" * 1_000):
        assert onetime.step_of(secret, nonsense, NOW) is None
    assert onetime.address(secret, "ann", "mailgate").startswith("otpauth://totp/mailgate:ann?secret=")


def test_recovery_codes_are_recognised_however_they_are_typed() -> None:
    codes = onetime.new_recovery_codes()
    assert len({*codes}) == len({*onetime.recovery_hashes(codes)}) == onetime.RECOVERY_CODES
    assert onetime.recovery_hash(codes[0].upper().replace("-", " ")) == onetime.recovery_hash(codes[0])
    assert onetime.recovery_hash(codes[0]) != onetime.recovery_hash(codes[1])
