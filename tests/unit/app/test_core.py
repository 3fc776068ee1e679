"""Opening an installation: what is made for a new one is never made beside an old one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mailgate.app.core import Core, Secrets
from mailgate.errors import ConfigurationError
from mailgate.settings import Settings


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """The data directory of an installation that was used."""
    await (await Core.open(Settings(data_dir=tmp_path / "data"))).close()
    return tmp_path / "data"


async def test_keys_that_are_lost_are_not_made_anew(folder: Path) -> None:
    (folder / "keys").rename(folder / "elsewhere")
    with pytest.raises(ConfigurationError, match="does not exist"):
        await Core.open(Settings(data_dir=folder))
    assert not (folder / "keys").exists()
    (folder / "elsewhere").rename(folder / "keys")
    await (await Core.open(Settings(data_dir=folder))).close()


async def test_a_folder_without_keys_in_their_place_is_left_as_it_is(folder: Path) -> None:
    """A volume that was not mounted."""
    shutil.rmtree(folder / "keys")
    (folder / "keys").mkdir(mode=0o700)
    with pytest.raises(ConfigurationError):
        await Core.open(Settings(data_dir=folder))
    assert not (folder / "keys" / "master").exists()


async def test_the_keys_of_another_installation(folder: Path, tmp_path: Path) -> None:
    await (await Core.open(Settings(data_dir=tmp_path / "other"))).close()
    shutil.rmtree(folder / "keys")
    shutil.copytree(tmp_path / "other" / "keys", folder / "keys")
    with pytest.raises(ConfigurationError, match="belongs to another installation"):
        await Core.open(Settings(data_dir=folder))


async def test_an_installation_that_was_cut_before_it_began(tmp_path: Path) -> None:
    """Keys without a database are those of a first start that was killed: they are taken."""
    await (await Core.open(Settings(data_dir=tmp_path / "data"))).close()
    keys = (tmp_path / "data" / "keys" / "master").read_bytes()
    for file in (tmp_path / "data").glob("mailgate.db*"):
        file.unlink()
    await (await Core.open(Settings(data_dir=tmp_path / "data"))).close()
    assert (tmp_path / "data" / "keys" / "master").read_bytes() == keys


@pytest.mark.parametrize(("length", "said"), [(15, "at least 16"), (513, "more than 512")])
def test_an_admin_token_that_is_too_short_or_too_long(length: int, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        Secrets.from_environment({"MAILGATE_ADMIN_TOKEN": "x" * length})
    assert "xxx" not in caught.value.detail


@pytest.mark.parametrize("length", [16, 512])
def test_an_admin_token_may_have_any_length_that_a_request_may_bring(length: int) -> None:
    assert Secrets.from_environment({"MAILGATE_ADMIN_TOKEN": "x" * length}).admin_token == "x" * length
