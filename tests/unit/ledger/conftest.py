"""An exported log on disk, and its key."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from retention.ledger.checkpoint import Checkpoint
from retention.ledger.export import export_directory
from retention.ledger.note import Signer
from retention.ledger.tree import Frontier, leaf_hash
from tests.ledger_samples import DAY, NOW, ORIGIN, every_type, purge_run

SIGNER = Signer(ORIGIN, bytes(range(32)))

Exporter = Callable[..., Path]


def sign(bodies: Iterable[bytes], signer: Signer = SIGNER) -> bytes:
    """The checkpoint of a log of these leaves."""
    frontier = Frontier()
    frontier.extend(map(leaf_hash, bodies))
    return Checkpoint(signer.name, frontier.size, frontier.root()).sign([signer])


@pytest.fixture
def leaves() -> list[bytes]:
    """600 leaves: two full bundles and a partial one, every type among them, all rules kept."""
    bodies = [*every_type(), *purge_run(569, at=NOW + 2 * DAY)]
    assert len(bodies) == 600
    return bodies


@pytest.fixture
def exported(tmp_path: Path) -> Exporter:
    """Exports leaves to a new folder and returns it."""

    def export(bodies: list[bytes], name: str = "log", signer: Signer = SIGNER) -> Path:
        path = tmp_path / name
        export_directory(path, signer.verifier, sign(bodies, signer), bodies)
        return path

    return export
