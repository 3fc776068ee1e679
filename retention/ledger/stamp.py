"""What a time-stamp (RFC 3161) says of some bytes, as far as that is seen without believing anybody: it is on these
very bytes, when, and that a certificate that came with it signed those words. Pure.

Whose certificate that is, and whether the authority is to be believed, is not examined here: give its root certificates
to `mailgate audit verify --tsa-ca` or to `openssl ts -verify`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import new, sha256

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

MAX_STAMP = 65_536
"""Bytes of an answer, the authority's certificates included."""

_SEQUENCE, _SET, _INTEGER, _OCTETS, _OID, _TIME, _CONTEXT_0 = 0x30, 0x31, 0x02, 0x04, 0x06, 0x18, 0xA0
_SIGNED_DATA = bytes.fromhex("2a864886f70d010702")  # RFC 5652 section 5.1
_TST_INFO = bytes.fromhex("2a864886f70d0109100104")  # RFC 3161 section 2.4.2
_MESSAGE_DIGEST = bytes.fromhex("2a864886f70d010904")  # RFC 5652 section 11.2
_HASHES = {bytes.fromhex(f"60864801650304020{n}"): name for n, name in ((1, "sha256"), (2, "sha384"), (3, "sha512"))}
_ALGORITHMS: dict[str, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_GENERALIZED = re.compile(rb"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\.\d{1,9})?Z")

Item = tuple[int, bytes]


class StampError(ValueError):
    """It is no stamp, a refusal, or on other bytes; says which."""


def check_imprint(answer: bytes, data: bytes) -> str:
    """When `data` was stamped, as the answer says (RFC 3339, UTC). Raises StampError."""
    if len(answer) > MAX_STAMP:
        raise StampError("it is longer than any time-stamp")
    (reply,) = _read(answer, (_SEQUENCE,))
    (status,) = _read(reply, (_SEQUENCE,), most=2)
    if _read(status, (_INTEGER,), most=9) != [b"\x00"]:
        raise StampError("the authority refused")
    _, token = _read(reply, (_SEQUENCE, _SEQUENCE))
    kind, wrapped = _read(token, (_OID, _CONTEXT_0))
    if kind != _SIGNED_DATA:
        raise StampError("it holds no signed data")
    (signed,) = _read(wrapped, (_SEQUENCE,))
    items = _items(signed)
    certificates = [content for tag, content in items[3:] if tag == _CONTEXT_0]
    _, _, content = _read(signed, (_INTEGER, _SET, _SEQUENCE), most=9)
    kind, wrapped = _read(content, (_OID, _CONTEXT_0))
    if kind != _TST_INFO:
        raise StampError("it holds no time-stamp")
    (told,) = _read(wrapped, (_OCTETS,))
    told_items = _read(told, (_SEQUENCE,))
    _, _, imprint, _, at = _read(told_items[0], (_INTEGER, _OID, _SEQUENCE, _INTEGER, _TIME), most=99)
    algorithm, digest = _read(imprint, (_SEQUENCE, _OCTETS))
    if _HASHES.get(_read(algorithm, (_OID,), most=2)[0]) != "sha256" or digest != sha256(data).digest():
        raise StampError("the stamp is on other bytes")
    _signed_words(items[-1], told, certificates[0] if certificates else b"")
    match = _GENERALIZED.fullmatch(at)
    if match is None:
        raise StampError("its time is not as it must be")
    year, month, day, hour, minute, second = (part.decode() for part in match.groups()[:6])
    return f"{year}-{month}-{day}T{hour}:{minute}:{second}Z"


def _signed_words(signers: Item, told: bytes, certificates: bytes) -> None:
    """Its one signer (RFC 3161 section 2.4.2) signed the digest of what the stamp tells (RFC 5652 section 5.4)."""
    tag, body = signers
    if tag != _SET:
        raise StampError("nobody signed the stamp")
    (signer,) = _read(body, (_SEQUENCE,))
    fields = (_INTEGER, _SEQUENCE, _SEQUENCE, _CONTEXT_0, _SEQUENCE, _OCTETS)
    _, _, algorithm, attributes, _, signature = _read(signer, fields, most=7)
    name = _HASHES.get(_read(algorithm, (_OID,), most=2)[0])
    if name is None:
        raise StampError("its digest is of no kind that is known")
    digests = [
        values
        for tag, attribute in _items(attributes)
        if tag == _SEQUENCE
        for kind, values in [_read(attribute, (_OID, _SET))]
        if kind == _MESSAGE_DIGEST
    ]
    if [_read(values, (_OCTETS,)) for values in digests] != [[new(name, told).digest()]]:
        raise StampError("its signer signed other words")
    signed = _item(_SET, attributes)  # what is signed is their own encoding, not the one in the message
    hash_ = _ALGORITHMS[name]
    if not any(_verifies(_item(tag, each), signature, signed, hash_) for tag, each in _items(certificates)):
        raise StampError("no certificate that came with the stamp signed it")


def _verifies(certificate: bytes, signature: bytes, signed: bytes, hash_: hashes.HashAlgorithm) -> bool:
    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
        if isinstance(key, RSAPublicKey):
            key.verify(signature, signed, PKCS1v15(), hash_)
        elif isinstance(key, EllipticCurvePublicKey):
            key.verify(signature, signed, ECDSA(hash_))
        else:
            return False
    except Exception:  # noqa: BLE001 - the library raises many kinds for bytes that are no certificate
        return False
    return True


def _item(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def _read(data: bytes, tags: Sequence[int], *, most: int | None = None) -> list[bytes]:
    """The contents of the items that `data` begins with, which have these tags; `most` items at all, as many by
    default.
    """
    items = _items(data)
    if [tag for tag, _ in items[: len(tags)]] != list(tags) or len(items) > (most or len(tags)):
        raise StampError("it is no answer of a time-stamping authority")
    return [content for _, content in items[: len(tags)]]


def _items(data: bytes) -> list[Item]:
    """DER's tags and contents, one after the other (ITU-T X.690 section 8.1, definite lengths)."""
    items: list[Item] = []
    at = 0
    while at < len(data):
        if at + 2 > len(data) or data[at] & 0x1F == 0x1F:
            raise StampError("it is cut short or not DER")
        tag, length = data[at], data[at + 1]
        at += 2
        if length & 0x80:
            count = length & 0x7F
            if not 1 <= count <= 4 or at + count > len(data):
                raise StampError("it is cut short or not DER")
            length = int.from_bytes(data[at : at + count], "big")
            at += count
        if at + length > len(data):
            raise StampError("it is cut short or not DER")
        items.append((tag, data[at : at + length]))
        at += length
    return items
