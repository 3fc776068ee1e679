"""Stores to put blobs into: `store` is each kind in turn, `local` a directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mailgate.blobs import BlobStore


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BlobStore]:
    opened = BlobStore.open(f"file://{tmp_path}/blobs" if request.param == "file" else "memory://")
    yield opened
    opened.close()


@pytest.fixture
def local(tmp_path: Path) -> Iterator[BlobStore]:
    opened = BlobStore.open(f"file://{tmp_path}/blobs")
    yield opened
    opened.close()
