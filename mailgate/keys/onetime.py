"""One-time codes (TOTP, RFC 6238: SHA-1, six digits, thirty seconds) and the recovery codes beside them."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence

import pyotp

from mailgate.clock import SECOND, Instant

_STEP: Instant = 30 * SECOND
RECOVERY_CODES = 10


def new_secret() -> str:
    """160 random bits in base 32 (RFC 4226 §4, R6)."""
    return pyotp.random_base32()


def address(secret: str, name: str, issuer: str) -> str:
    """The otpauth:// address that authenticators read from a picture."""
    return pyotp.TOTP(secret).provisioning_uri(name=name, issuer_name=issuer)


def step_of(secret: str, code: str, now: Instant) -> int | None:
    """The time step whose code it is: this one, the one before or the one after (RFC 6238 §5.2); None for no code."""
    code = code.replace(" ", "")
    totp, found = pyotp.TOTP(secret), None
    for step in range(now // _STEP - 1, now // _STEP + 2):
        if pyotp.utils.strings_equal(code, totp.generate_otp(step)):
            found = step  # and go on: it takes as long whichever it is
    return found


def new_recovery_codes() -> list[str]:
    """Codes for who lost the authenticator, 80 random bits each, four letters at a time."""
    texts = [base64.b32encode(os.urandom(10)).decode().lower() for _ in range(RECOVERY_CODES)]
    return ["-".join(text[n : n + 4] for n in range(0, 16, 4)) for text in texts]


def recovery_hash(code: str) -> bytes:
    """What is kept of a recovery code: nobody can try out 80 bits."""
    return hashlib.sha256(code.replace("-", "").replace(" ", "").lower().encode()).digest()


def recovery_hashes(codes: Sequence[str]) -> list[bytes]:
    """The same of several."""
    return [recovery_hash(code) for code in codes]
