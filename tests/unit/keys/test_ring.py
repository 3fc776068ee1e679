"""The key ring: what is made when, who wins a race, what a wrong key says, and what destroying means."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mailgate.clock import from_rfc3339
from mailgate.keys import (
    KeyMissingError,
    KeyRing,
    KeyStoreError,
    KeyUnwrapError,
    MasterKeyError,
    epoch_at,
    master_from_text,
)

NOVEMBER = from_rfc3339("2026-11-22T06:00:00Z")
DECEMBER = from_rfc3339("2026-12-01T00:00:00Z")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file://{tmp_path}/keys"


def folder(url: str) -> Path:
    return Path(url.removeprefix("file://"))


def test_opening_again_gives_the_same_keys(url: str) -> None:
    ring = KeyRing.open(url, create=True)
    keys = ring.create_tenant("t1", NOVEMBER)
    data_key = keys.new_data_key(NOVEMBER)
    sealed = ring.seal(b"hunter2", "mailbox/1/imap")

    again = KeyRing.open(url, create=False)
    other = again.tenant("t1")
    assert again.ledger_seed == ring.ledger_seed
    assert len(again.ledger_seed) == 32
    assert other.unwrap(data_key.wrapped, data_key.epoch) == data_key.key
    assert other.mac("content", b"x") == keys.mac("content", b"x")
    assert other.ledger_key == keys.ledger_key
    assert again.open_sealed(sealed, "mailbox/1/imap") == b"hunter2"


def test_fingerprints_are_of_this_key_store(url: str, tmp_path: Path) -> None:
    ring, other = KeyRing.open(url, create=True), KeyRing.open(f"file://{tmp_path}/other", create=True)
    found = ring.fingerprint(b"a password", "idempotency")
    assert found == KeyRing.open(url, create=False).fingerprint(b"a password", "idempotency")
    assert len({found, other.fingerprint(b"a password", "idempotency"), ring.fingerprint(b"a password", "x")}) == 3
    assert found != hashlib.sha256(b"a password").digest()


def test_a_key_store_that_vanished_is_not_made_anew_for_a_tenant(url: str) -> None:
    ring = KeyRing.open(url, create=True)
    folder(url).rename(folder(url).with_name("elsewhere"))
    with pytest.raises(KeyStoreError, match="is gone"):
        ring.create_tenant("new", NOVEMBER)
    assert not folder(url).exists()


def test_modes_keep_other_users_out(url: str) -> None:
    KeyRing.open(url, create=True).create_tenant("t1", NOVEMBER)
    for path in [folder(url), *folder(url).rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_an_open_directory_is_closed(url: str) -> None:
    folder(url).mkdir(mode=0o755)
    KeyRing.open(url, create=True)
    assert folder(url).stat().st_mode & 0o777 == 0o700


def test_only_the_master_key_lies_in_clear(url: str) -> None:
    ring = KeyRing.open(url, create=True)
    keys = ring.create_tenant("t1", NOVEMBER)
    for path in folder(url).rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert ring.ledger_seed not in content
            assert keys.ledger_key not in content


def test_a_given_master_key_is_not_written(url: str) -> None:
    master = os.urandom(32)
    KeyRing.open(url, master=master, create=True)
    assert not (folder(url) / "master").exists()
    KeyRing.open(url, master=master, create=False)
    with pytest.raises(MasterKeyError, match="MAILGATE_MASTER_KEY"):
        KeyRing.open(url, create=True)


def test_a_wrong_master_key_says_what_to_do(url: str) -> None:
    KeyRing.open(url, create=True)
    wrong = os.urandom(32)
    with pytest.raises(MasterKeyError, match="does not open this key store: give the key it was made with") as caught:
        KeyRing.open(url, master=wrong, create=False)
    assert caught.value.slug == "master_key"


@pytest.mark.parametrize("text", ["", "abc", "!" * 44, base64.b64encode(bytes(31)).decode(), "ü" * 44])
def test_a_malformed_master_key_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(MasterKeyError, match="openssl rand -base64 32") as caught:
        master_from_text(text)
    assert not text or text not in str(caught.value)


def test_a_master_key_from_text() -> None:
    key = os.urandom(32)
    assert master_from_text(base64.b64encode(key).decode() + "\n") == key


def test_a_damaged_master_file_is_named(url: str) -> None:
    KeyRing.open(url, create=True)
    (folder(url) / "master").write_bytes(b"garbage")
    with pytest.raises(MasterKeyError, match="damaged"):
        KeyRing.open(url, create=False)


def test_a_missing_store_is_not_made_unasked(url: str) -> None:
    with pytest.raises(KeyStoreError, match="mailgate init"):
        KeyRing.open(url, create=False)
    assert not folder(url).exists()


@pytest.mark.parametrize("bad", ["s3://bucket/keys", "file://host/keys", ""])
def test_other_places_for_keys_are_refused(bad: str) -> None:
    with pytest.raises(KeyStoreError, match=r"keys\.url"):
        KeyRing.open(bad, create=True)


def test_a_file_in_place_of_the_directory(url: str) -> None:
    folder(url).write_text("")
    with pytest.raises(KeyStoreError):
        KeyRing.open(url, create=True)


def test_epochs_are_calendar_months_in_utc() -> None:
    assert epoch_at(NOVEMBER) == 202611
    assert epoch_at(DECEMBER) == 202612
    assert epoch_at(DECEMBER - 1) == 202611
    assert epoch_at(0) == 197001


def test_a_new_month_makes_a_new_epoch_and_the_old_one_stays_readable(url: str) -> None:
    ring = KeyRing.open(url, create=True)
    keys = ring.create_tenant("t1", NOVEMBER)
    old = keys.new_data_key(DECEMBER - 1)
    new = keys.new_data_key(DECEMBER)
    assert (old.epoch, new.epoch) == (202611, 202612)
    assert ring.epochs("t1") == [202611, 202612]
    assert keys.unwrap(old.wrapped, 202611) == old.key
    with pytest.raises(KeyUnwrapError):
        keys.unwrap(old.wrapped, 202612)


def test_a_clock_that_went_back_is_served_from_the_older_epoch(url: str) -> None:
    keys = KeyRing.open(url, create=True).create_tenant("t1", DECEMBER)
    assert keys.new_data_key(NOVEMBER).epoch == 202611
    assert keys.new_data_key(DECEMBER).epoch == 202612


def test_destroying_an_epoch_shreds_what_it_wrapped_and_nothing_else(url: str) -> None:
    ring = KeyRing.open(url, create=True)
    keys = ring.create_tenant("t1", NOVEMBER)
    old, new = keys.new_data_key(NOVEMBER), keys.new_data_key(DECEMBER)
    assert ring.destroy_epoch("t1", 202611)
    assert not ring.destroy_epoch("t1", 202611)
    with pytest.raises(KeyMissingError, match="202611"):
        keys.unwrap(old.wrapped, old.epoch)
    assert keys.unwrap(new.wrapped, new.epoch) == new.key


def test_data_keys_are_fresh_and_bound_to_their_tenant(url: str) -> None:
    ring = KeyRing.open(url, create=True)
    one, two = ring.create_tenant("t1", NOVEMBER), ring.create_tenant("t2", NOVEMBER)
    made = [one.new_data_key(NOVEMBER) for _ in range(100)]
    assert len({item.key for item in made}) == 100
    assert {len(item.key) for item in made} == {32}
    with pytest.raises(KeyUnwrapError):
        two.unwrap(made[0].wrapped, made[0].epoch)


def test_changed_or_cut_wrapped_bytes_do_not_open(url: str) -> None:
    keys = KeyRing.open(url, create=True).create_tenant("t1", NOVEMBER)
    data_key = keys.new_data_key(NOVEMBER)
    for position in range(len(data_key.wrapped)):
        changed = bytearray(data_key.wrapped)
        changed[position] ^= 1
        with pytest.raises(KeyUnwrapError):
            keys.unwrap(bytes(changed), data_key.epoch)
        with pytest.raises(KeyUnwrapError):
            keys.unwrap(data_key.wrapped[:position], data_key.epoch)


def test_an_epoch_never_made_is_missing(url: str) -> None:
    keys = KeyRing.open(url, create=True).create_tenant("t1", NOVEMBER)
    with pytest.raises(KeyMissingError):
        keys.unwrap(bytes(61), 209901)


def test_mac_is_hmac_sha256_per_purpose_and_tenant(url: str) -> None:
    ring = KeyRing.open(url, create=True)
    keys = ring.create_tenant("t1", NOVEMBER)
    other = ring.create_tenant("t2", NOVEMBER)
    macs = {keys.mac("content", b"x"), keys.mac("header", b"x"), other.mac("content", b"x")}
    assert len(macs) == 3
    assert {len(mac) for mac in macs} == {32}
    assert keys.mac("content", memoryview(b"x")) == keys.mac("content", b"x")


def test_the_mac_agrees_with_the_standard_library() -> None:
    """The copied hash states must be RFC 2104's HMAC and not something like it."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

    from mailgate.keys import TenantKeys

    keys = TenantKeys("t", mac_root=b"r" * 32, ledger=b"l" * 32, load=lambda epoch: None, make=lambda epoch: bytes(32))
    derived = HKDFExpand(SHA256(), 32, b"mailgate mac\0content").derive(b"r" * 32)
    for data in (b"", b"x", os.urandom(1000)):
        assert keys.mac("content", data) == hmac.new(derived, data, hashlib.sha256).digest()


def test_destroying_a_tenant_is_seen_by_every_process(url: str) -> None:
    ring, other = KeyRing.open(url, create=True), KeyRing.open(url, create=True)
    keys = ring.create_tenant("t1", NOVEMBER)
    ring.create_tenant("t2", NOVEMBER)
    data_key = keys.new_data_key(NOVEMBER)
    held = other.tenant("t1")
    assert ring.destroy_tenant("t1")
    for use in (
        lambda: ring.tenant("t1"),
        lambda: other.tenant("t1"),
        lambda: keys.unwrap(data_key.wrapped, data_key.epoch),
        lambda: keys.new_data_key(NOVEMBER),
        lambda: keys.mac("content", b""),
        lambda: keys.ledger_key,
        lambda: held.new_data_key(DECEMBER),
        lambda: KeyRing.open(url, create=False).tenant("t1"),
        lambda: other.create_tenant("t1", NOVEMBER),
    ):
        with pytest.raises(KeyMissingError):
            use()
    assert not (folder(url) / "tenants" / "t1").exists()
    assert ring.tenant("t2").ref == "t2"
    assert not ring.destroy_tenant("t1")


def test_a_key_of_an_erased_tenant_is_not_made_anew(url: str) -> None:
    ring, other = KeyRing.open(url, create=True), KeyRing.open(url, create=True)
    ring.create_tenant("t1", NOVEMBER)
    held = other.tenant("t1")
    ring.destroy_tenant("t1")
    with pytest.raises(KeyMissingError):
        held.new_data_key(DECEMBER)
    assert not (folder(url) / "tenants" / "t1").exists()


def test_a_destruction_that_was_cut_is_finished_by_the_next(url: str) -> None:
    ring = KeyRing.open(url, create=True)
    ring.create_tenant("t1", NOVEMBER)
    (folder(url) / "tenants" / "t1" / "mac").unlink()
    assert KeyRing.open(url, create=True).destroy_tenant("t1")
    assert not (folder(url) / "tenants" / "t1").exists()


def test_creating_a_tenant_twice_keeps_its_keys(url: str) -> None:
    ring = KeyRing.open(url, create=True)
    mac = ring.create_tenant("t1", NOVEMBER).mac("content", b"")
    assert KeyRing.open(url, create=True).create_tenant("t1", DECEMBER).mac("content", b"") == mac


@pytest.mark.parametrize("ref", ["", "..", ".", "../x", "a/b", "a\0b", "x" * 65, ".hidden", "ü"])
def test_a_tenant_reference_never_leaves_its_folder(url: str, ref: str) -> None:
    ring = KeyRing.open(url, create=True)
    for use in (ring.tenant, lambda r: ring.create_tenant(r, NOVEMBER), ring.destroy_tenant):
        with pytest.raises(ValueError, match="not a"):
            use(ref)


def test_sealed_secrets_are_bound_to_their_context(url: str) -> None:
    ring = KeyRing.open(url, create=True)
    sealed = ring.seal(b"secret", "mailbox/1/imap")
    assert b"secret" not in sealed
    for wrong in ("mailbox/2/imap", "mailbox/1/smtp", ""):
        with pytest.raises(KeyUnwrapError):
            ring.open_sealed(sealed, wrong)
    with pytest.raises(KeyUnwrapError):
        ring.open_sealed(b"", "mailbox/1/imap")


def test_nothing_prints_keys(url: str) -> None:
    master = os.urandom(32)
    ring = KeyRing.open(url, master=master, create=True)
    keys = ring.create_tenant("t1", NOVEMBER)
    data_key = keys.new_data_key(NOVEMBER)
    texts = [repr(ring), repr(keys), repr(data_key), str(data_key)]
    try:
        keys.unwrap(data_key.wrapped[:-1], data_key.epoch)
    except KeyUnwrapError:
        texts.append(traceback.format_exc())
    for secret in (master, data_key.key, keys.ledger_key, ring.ledger_seed):
        for text in texts:
            assert secret.hex() not in text
            assert repr(secret)[2:-1] not in text
            assert base64.b64encode(secret).decode() not in text


def test_damaged_key_files_are_named(url: str) -> None:
    ring = KeyRing.open(url, create=True)
    ring.create_tenant("t1", NOVEMBER)
    (folder(url) / "tenants" / "t1" / "ledger").write_bytes(b"\x01" + bytes(60))
    with pytest.raises(KeyStoreError, match="tenants/t1/ledger is damaged"):
        KeyRing.open(url, create=True).tenant("t1")


def test_a_key_file_moved_to_another_tenant_does_not_open(url: str) -> None:
    ring = KeyRing.open(url, create=True)
    ring.create_tenant("t1", NOVEMBER)
    ring.create_tenant("t2", NOVEMBER)
    tenants = folder(url) / "tenants"
    (tenants / "t2" / "mac").write_bytes((tenants / "t1" / "mac").read_bytes())
    with pytest.raises(KeyStoreError, match="damaged"):
        KeyRing.open(url, create=True).tenant("t2")


def test_half_written_files_are_swept_and_never_read(url: str) -> None:
    ring = KeyRing.open(url, create=True)
    ring.create_tenant("t1", NOVEMBER)
    for place in (folder(url), folder(url) / "tenants" / "t1"):
        (place / ".new-0011223344556677").write_bytes(b"half")
    assert ring.epochs("t1") == [202611]
    assert ring.sweep() == 2
    assert ring.sweep() == 0


def test_threads_that_race_end_with_one_key(url: str) -> None:
    rings = [KeyRing.open(url, create=True) for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        macs = list(pool.map(lambda n: rings[n % 4].create_tenant("t1", NOVEMBER).mac("content", b""), range(32)))
    assert len(set(macs)) == 1


def test_processes_that_race_on_an_empty_store_end_with_the_same_keys(url: str) -> None:
    script = (
        "import sys; from mailgate.keys import KeyRing\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "ring = KeyRing.open(sys.argv[1], create=True); keys = ring.create_tenant('t1', 1_795_000_000_000_000)\n"
        "key = keys.new_data_key(1_795_000_000_000_000)\n"
        "print(ring.ledger_seed.hex(), keys.mac('p', b'').hex(), keys.ledger_key.hex())\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:  # all of them stand at the line before the first one starts
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    printed = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert len(set(printed)) == 1
