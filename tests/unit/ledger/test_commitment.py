"""Commitments: HKDF and HMAC as the RFCs have them, opened by one salt, by nothing else."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from retention.ledger.commitment import Committer, commit, opens

KEY = bytes(range(32))


def test_salt_is_hkdf_and_commitment_is_hmac() -> None:
    committer = Committer(KEY)
    hkdf = HKDF(hashes.SHA256(), 32, salt=None, info=b"mailgate/ledger/commitment/v1\nitem1")
    salt = hkdf.derive(KEY)
    assert committer.salt("item1") == salt
    expected = hmac.new(salt, b"content\nbytes", hashlib.sha256).hexdigest()
    assert committer.commit("item1", "content", b"bytes") == commit(salt, "content", b"bytes") == expected


def test_a_salt_opens_its_own_leaf_only() -> None:
    committer = Committer(KEY)
    commitment = committer.commit("item1", "msgid", b"<a@b>")
    assert opens(committer.salt("item1"), "msgid", b"<a@b>", commitment)
    assert not opens(committer.salt("item2"), "msgid", b"<a@b>", commitment)
    assert not opens(committer.salt("item1"), "content", b"<a@b>", commitment)
    assert not opens(committer.salt("item1"), "msgid", b"<a@c>", commitment)
    assert not opens(Committer(bytes(32)).salt("item1"), "msgid", b"<a@b>", commitment)


def test_key_length() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Committer(b"short")
