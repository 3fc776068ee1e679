"""Time-stamps of an authority (RFC 3161): what to ask, and what an answer shows. Nothing else imports rfc3161_client,
and this only when it is used: few installations have their logs stamped.

A stamp says that some bytes existed at a time, signed by somebody who is not us: of a signed checkpoint it shows that
the log was no younger. Whether the authority is believed is the reader's matter: they give its roots.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography import x509

from mailgate.clock import Instant, from_datetime

if TYPE_CHECKING:
    from rfc3161_client.tsp import TimeStampResponse

QUERY_TYPE: Final = "application/timestamp-query"
REPLY_TYPE: Final = "application/timestamp-reply"
MAX_REPLY: Final = 65_536
"""Bytes of an answer, the authority's certificates included."""

_SHA256 = x509.ObjectIdentifier("2.16.840.1.101.3.4.2.1")


class TimestampError(Exception):
    """The answer is none, is a refusal, or is not about these bytes; says which."""


@dataclass(frozen=True, slots=True)
class Query:
    """What is sent to the authority (RFC 3161 section 2.4.1), and the nonce that its answer must repeat."""

    body: bytes
    nonce: int


@dataclass(frozen=True, slots=True)
class Stamp:
    """What an answer shows: when the bytes existed, and who says so (RFC 4514 text of the signer's name)."""

    at: Instant
    authority: str


def query(data: bytes) -> Query:
    """A query for a stamp on the SHA-256 of `data`; the authority is asked for its certificates as well."""
    from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

    made = TimestampRequestBuilder().data(data).hash_algorithm(HashAlgorithm.SHA256).build()
    nonce = made.nonce
    if nonce is None:
        raise TimestampError("no nonce was made")
    return Query(made.as_bytes(), nonce)


def check(answer: bytes, data: bytes, roots: Sequence[x509.Certificate] = (), *, nonce: int | None = None) -> Stamp:
    """What an answer (RFC 3161 section 2.4.2) shows about `data`. Raises TimestampError.

    With `roots` its signature is verified up to one of them, at the time that it names; without, only what it says.
    """
    from rfc3161_client import decode_timestamp_response
    from rfc3161_client.errors import VerificationError
    from rfc3161_client.tsp import PKIStatus

    try:
        reply = decode_timestamp_response(answer)
        if reply.status != PKIStatus.GRANTED:
            words = "; ".join(reply.status_string) or PKIStatus(reply.status).name.lower()
            raise TimestampError(f"the authority refused: {words[:200]}")
        told = reply.tst_info
        imprint = told.message_imprint
        if (imprint.hash_algorithm, imprint.message) != (_SHA256, hashlib.sha256(data).digest()):
            raise TimestampError("the stamp is on other bytes")
        if nonce is not None and told.nonce != nonce:
            raise TimestampError("the stamp answers another query")
        if roots:
            _verify(reply, data, roots)
        return Stamp(from_datetime(told.gen_time), _signer(reply))
    except VerificationError as error:
        raise TimestampError(f"the stamp does not verify: {error}") from None
    except ValueError as error:
        raise TimestampError(f"this is no answer of a time-stamping authority: {str(error)[:200]}") from None


def load_roots(path: Path) -> list[x509.Certificate]:
    """The certificates in a PEM file. Raises OSError, ValueError."""
    return x509.load_pem_x509_certificates(path.read_bytes())


def _verify(reply: TimeStampResponse, data: bytes, roots: Sequence[x509.Certificate]) -> None:
    from rfc3161_client import VerifierBuilder

    # The library trusts whatever it is given here, intermediates too: nothing that came with the answer may be.
    VerifierBuilder(roots=list(roots), intermediates=[]).build().verify_message(reply, data)


def _certificates(reply: TimeStampResponse) -> list[x509.Certificate]:
    return [x509.load_der_x509_certificate(each) for each in reply.signed_data.certificates]


def _signer(reply: TimeStampResponse) -> str:
    for info in reply.signed_data.signer_infos:
        for certificate in _certificates(reply):
            if (certificate.issuer, certificate.serial_number) == (info.issuer, info.serial_number):
                return certificate.subject.rfc4514_string()
        return f"serial {info.serial_number} of {info.issuer.rfc4514_string()}"
    raise TimestampError("nobody signed the stamp")
