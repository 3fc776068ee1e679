"""Changing the master key: all opens as before, the old key opens nothing, a cut is finished by running it again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mailgate.keys import KeyRing, KeyStoreError, MasterKeyError, rotate_master
from mailgate.keys.directory import KeyDirectory

NOW = 1_795_000_000_000_000


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file://{tmp_path}/keys"


def fingerprint(ring: KeyRing) -> tuple[bytes, ...]:
    keys = [ring.tenant("t1"), ring.tenant("t2")]
    return ring.ledger_seed, *(key.mac("x", b"") for key in keys), *(key.ledger_key for key in keys)


def make(url: str, master: bytes | None = None) -> tuple[tuple[bytes, ...], bytes, bytes, bytes]:
    ring = KeyRing.open(url, master=master, create=True)
    data_key = ring.create_tenant("t1", NOW).new_data_key(NOW)
    ring.create_tenant("t2", NOW)
    made = fingerprint(ring), data_key.key, data_key.wrapped, ring.seal(b"secret", "c")
    ring.close()
    return made


def check(url: str, made: tuple[tuple[bytes, ...], bytes, bytes, bytes], master: bytes | None = None) -> None:
    ring = KeyRing.open(url, master=master, create=False)
    prints, key, wrapped, sealed = made
    assert fingerprint(ring) == prints
    assert ring.tenant("t1").unwrap(wrapped, 202611) == key
    assert ring.open_sealed(sealed, "c") == b"secret"
    ring.close()


def test_everything_opens_as_before_and_the_old_key_opens_nothing(url: str) -> None:
    made = make(url)
    folder = Path(url.removeprefix("file://"))
    old_master = (folder / "master").read_bytes()
    old_files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.stat().st_size == 61}
    assert rotate_master(url) == len(old_files) == 2 + 2 * 3
    check(url, made)
    assert (folder / "master").read_bytes() != old_master
    assert all(path.read_bytes() != content for path, content in old_files.items())
    (folder / "master").write_bytes(old_master)
    with pytest.raises(MasterKeyError):
        KeyRing.open(url, create=False)


def test_keys_kept_by_the_operator(url: str) -> None:
    old, new = os.urandom(32), os.urandom(32)
    made = make(url, old)
    rotate_master(url, master=old, new_master=new)
    check(url, made, new)
    assert not (Path(url.removeprefix("file://")) / "master").exists()
    with pytest.raises(MasterKeyError, match="neither"):
        rotate_master(url, master=new)


def test_a_key_store_in_use_is_left_alone(url: str) -> None:
    made = make(url)
    ring = KeyRing.open(url, create=False)
    with pytest.raises(KeyStoreError, match="in use"):
        rotate_master(url)
    ring.close()
    rotate_master(url)
    check(url, made)


def test_nobody_opens_it_meanwhile(url: str) -> None:
    make(url)
    with (
        KeyDirectory.open(url, create=False).lock(alone=True),
        pytest.raises(KeyStoreError, match="being changed"),
    ):
        KeyRing.open(url, create=False)


@pytest.mark.parametrize("cut_at", range(12))
def test_a_cut_anywhere_is_finished_by_running_again(url: str, cut_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(url)
    steps = 0

    class Cut(BaseException):
        pass

    def cutting(name: str) -> None:
        original = getattr(KeyDirectory, name)

        def step(self: KeyDirectory, *arguments: object) -> object:
            nonlocal steps
            if steps == cut_at:
                raise Cut
            steps += 1
            return original(self, *arguments)

        patched.setattr(KeyDirectory, name, step)

    with monkeypatch.context() as patched:
        for name in ("create", "replace", "erase"):
            cutting(name)
        try:
            rotate_master(url)
        except Cut:
            assert steps == cut_at
        else:
            assert cut_at >= 11  # 1 for the new key, 8 files, the key in its place, the end
    if 0 < cut_at < 11:
        with pytest.raises(KeyStoreError, match="key rotate"):
            KeyRing.open(url, create=False)
        rotate_master(url)
    check(url, made)


def test_a_file_that_opens_under_neither_key_is_named(url: str) -> None:
    make(url)
    (Path(url.removeprefix("file://")) / "tenants" / "t1" / "mac").write_bytes(b"\x01" + bytes(60))
    with pytest.raises(KeyStoreError, match="tenants/t1/mac opens under neither"):
        rotate_master(url)
