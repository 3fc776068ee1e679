"""Whether a webhook comes from Stripe: the one place that knows Stripe's library, imported with the
first webhook: it brings an HTTP client of its own, and few installations are billed by Stripe.

The scheme (docs.stripe.com/webhooks, "verify manually"): `Stripe-Signature: t=<seconds>,v1=<hex>[,v1=…]`, where v1 is
HMAC-SHA256 of `<t>.<body>` under the endpoint's secret. While a secret is rotated Stripe signs with the old and the new
one, and we accept either. The time is judged here, by the gateway's clock, since the library would ask the machine's.
"""

from __future__ import annotations

from collections.abc import Sequence

from mailgate.clock import SECOND, Instant
from mailgate.errors import BadRequestError

TOLERANCE_S = 300


def verify(
    payload: bytes, header: str | None, secrets: Sequence[str], now: Instant, *, tolerance_s: int = TOLERANCE_S
) -> None:
    """Returns when `header` (Stripe-Signature) signs exactly these bytes under one of the `secrets`, not longer than
    `tolerance_s` before `now`. Raises BadRequestError (stripe_signature_invalid), which tells no secret.
    """
    if header is None:
        raise _refused("there is no Stripe-Signature header: only Stripe may send this")
    try:
        body = payload.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _refused("the body is not UTF-8") from error
    if not header.isascii() or not any(_signs(body, header, secret) for secret in secrets):
        raise _refused(
            "the signature is not valid for this body: check the endpoint's signing secret (billing.stripe_secrets), "
            "and that no proxy changes the body"
        )
    if _signed_at(header) * SECOND < now - tolerance_s * SECOND:
        raise _refused(f"it was signed more than {tolerance_s} seconds ago: check the clock of this machine")


def _signs(body: str, header: str, secret: str) -> bool:
    from stripe import SignatureVerificationError, WebhookSignature

    try:
        # Without a tolerance the library looks at no clock.
        return bool(WebhookSignature.verify_header(body, header, secret, tolerance=None))
    except SignatureVerificationError:
        return False


def _signed_at(header: str) -> int:
    """The time in a header that the library could read; like it, the first one."""
    return int(next(value for name, _, value in (part.partition("=") for part in header.split(",")) if name == "t"))


def _refused(why: str) -> BadRequestError:
    return BadRequestError(why, slug="stripe_signature_invalid")
