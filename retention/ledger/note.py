"""C2SP signed notes with Ed25519 signatures (c2sp.org/signed-note; also Go's golang.org/x/mod/sumdb/note).

A note is text, a blank line and signature lines `— <name> base64(key id || signature)`. A key has a name and an id; the
text of a verifier key (*vkey*) is `<name>+<id, 8 hex digits>+base64(0x01 || public key)`, that of a signer key
`PRIVATE+KEY+<name>+<id>+base64(0x01 || seed)`.

Parsing is strict: what Go's package refuses is refused here. Lines of unknown keys are ignored, a bad signature of a
known key spoils the whole note, and a note without a good signature of a known key is refused.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ED25519 = b"\x01"
MAX_NOTE = 1_000_000
MAX_SIGNATURES = 100

_LINE = re.compile(r"— (\S+) (\S+)")
_KEY_ID = re.compile(r"[0-9a-f]{8}")


class NoteError(ValueError):
    """The bytes are no note, or no key text."""


class UnverifiedNoteError(NoteError):
    """No signature of a known key, or a bad one."""


def key_id(name: str, public_key: bytes) -> bytes:
    """The 4-byte key id: SHA-256(name || 0x0A || 0x01 || public key)[:4]."""
    return sha256(name.encode() + b"\n" + ED25519 + public_key).digest()[:4]


def check_key_name(name: str) -> str:
    """The name, when it may be a key's: not empty, no spaces, no plus, no control characters. Raises NoteError."""
    if not name or "+" in name or any(c.isspace() or ord(c) < 0x20 or c == "\x7f" for c in name):
        raise NoteError(f"not a key name: {name[:80]!r}")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise NoteError(f"not a key name: {name[:80]!r}") from None
    return name


@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key with its name."""

    name: str
    public_key: bytes = field(repr=False)

    @property
    def id(self) -> bytes:
        """The 4-byte key id."""
        return key_id(self.name, self.public_key)

    @property
    def vkey(self) -> str:
        """The key as text, for configuration and `--vkey`."""
        return f"{self.name}+{self.id.hex()}+{_encode(ED25519 + self.public_key)}"

    @classmethod
    def from_vkey(cls, text: str) -> Verifier:
        """The key that a text names. Raises NoteError when the text is no Ed25519 vkey or its id does not fit."""
        parts = text.strip().split("+", 2)
        if len(parts) != 3 or not _KEY_ID.fullmatch(parts[1]):
            raise NoteError("not a verifier key: it reads <name>+<8 hex digits>+<base64>")
        verifier = cls(check_key_name(parts[0]), _key_bytes(parts[2]))
        if verifier.id.hex() != parts[1]:
            raise NoteError("not a verifier key: its id does not fit its name and key")
        return verifier

    def verify(self, text: bytes, signature: bytes) -> bool:
        """Whether `signature` (64 bytes) is this key's over `text`."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(signature, text)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key (32-byte Ed25519 seed) with its name."""

    name: str
    seed: bytes = field(repr=False)

    @classmethod
    def generate(cls, name: str) -> Signer:
        """A new key from the system's randomness."""
        return cls(check_key_name(name), Ed25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def from_text(cls, text: str) -> Signer:
        """The key that `text` names. Raises NoteError; the error never shows the text."""
        parts = text.strip().split("+", 4)
        if len(parts) != 5 or parts[:2] != ["PRIVATE", "KEY"] or not _KEY_ID.fullmatch(parts[3]):
            raise NoteError("not a signer key")
        signer = cls(check_key_name(parts[2]), _key_bytes(parts[4]))
        if signer.verifier.id.hex() != parts[3]:
            raise NoteError("not a signer key: its id does not fit its name and key")
        return signer

    @property
    def text(self) -> str:
        """The key as text. Secret."""
        return f"PRIVATE+KEY+{self.name}+{self.verifier.id.hex()}+{_encode(ED25519 + self.seed)}"

    @property
    def verifier(self) -> Verifier:
        """The public half."""
        return Verifier(self.name, Ed25519PrivateKey.from_private_bytes(self.seed).public_key().public_bytes_raw())

    def sign(self, text: bytes) -> bytes:
        """The 64-byte signature over `text`."""
        return Ed25519PrivateKey.from_private_bytes(self.seed).sign(text)


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line: whose it says it is, and the signature's bytes."""

    name: str
    key_id: bytes
    signature: bytes


def sign_note(text: str, signers: Sequence[Signer], others: Sequence[Signature] = ()) -> bytes:
    """The signed note over `text`, which ends in a newline; `others` are lines that are kept (witnesses, old keys)."""
    _check_text(text)
    if not signers and not others:
        raise NoteError("a note needs a signature")
    body = text.encode()
    lines = [Signature(s.name, s.verifier.id, s.sign(body)) for s in signers]
    return body + b"\n" + "".join(f"— {s.name} {_encode(s.key_id + s.signature)}\n" for s in (*lines, *others)).encode()


def parse_note(data: bytes) -> tuple[str, list[Signature]]:
    """Text and signature lines of a note, nothing verified. Raises NoteError."""
    if len(data) > MAX_NOTE:
        raise NoteError("the note is too long")
    try:
        note = data.decode("utf-8")
    except UnicodeDecodeError:
        raise NoteError("the note is not UTF-8") from None
    if "\r" in note:
        raise NoteError("the line ends are not those that were signed: an editor or a mail program changed them")
    at = note.rfind("\n\n")
    if at < 0:
        raise NoteError("the note has no blank line before signatures")
    text, tail = note[: at + 1], note[at + 2 :]
    _check_text(text)
    if not tail.endswith("\n"):
        raise NoteError("the note does not end with a newline")
    lines = tail[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise NoteError("the note has too many signatures")
    return text, [_parse_line(line) for line in lines]


def open_note(data: bytes, verifiers: Sequence[Verifier]) -> tuple[str, list[Verifier]]:
    """Text of a note and the known keys that signed it, at least one. Raises NoteError, UnverifiedNoteError."""
    text, signatures = parse_note(data)
    known = {(v.name, v.id): v for v in verifiers}
    signed: list[Verifier] = []
    for line in signatures:
        verifier = known.get((line.name, line.key_id))
        if verifier is None or verifier in signed:
            continue
        if not verifier.verify(text.encode(), line.signature):
            raise UnverifiedNoteError(f"the signature of {verifier.name} is wrong")
        signed.append(verifier)
    if not signed:
        by = ", ".join(f"{line.name[:80]!r} ({line.key_id.hex()})" for line in signatures[:3])
        given = ", ".join(f"{key.name[:80]!r} ({key.id.hex()})" for key in verifiers[:3])
        raise UnverifiedNoteError(f"signed by {by}, not by the key that was given, {given}")
    return text, signed


def signed_alone(data: bytes, key: Verifier) -> bytes:
    """The note as it was before others than this key signed it as well; as it is, if this key did not. Raises
    NoteError; verifies nothing.
    """
    text, signatures = parse_note(data)
    own = [line for line in signatures if (line.name, line.key_id) == (key.name, key.id)]
    return sign_note(text, [], own[:1]) if own else data


def _parse_line(line: str) -> Signature:
    match = _LINE.fullmatch(line)
    if match is None:
        raise NoteError("not a signature line")
    raw = _decode(match[2])
    if len(raw) < 5:
        raise NoteError("a signature line is too short")
    return Signature(check_key_name(match[1]), raw[:4], raw[4:])


def _check_text(text: str) -> None:
    if not text.endswith("\n"):
        raise NoteError("a note's text ends with a newline")
    if any(c < " " and c != "\n" for c in text):
        raise NoteError("a note holds no control characters")


def _key_bytes(text: str) -> bytes:
    raw = _decode(text)
    if len(raw) != 33 or raw[:1] != ED25519:
        raise NoteError("not an Ed25519 key")
    return raw[1:]


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode(text: str) -> bytes:
    """Standard base64 (RFC 4648 section 4) in its one canonical form."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise NoteError("not base64") from None
    if _encode(data) != text:
        raise NoteError("not base64 in its canonical form")
    return data
