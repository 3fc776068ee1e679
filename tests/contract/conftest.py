"""Servers that only the contracts need."""

from __future__ import annotations

from tests.contract.pymap_server import pymap_server

__all__ = ["pymap_server"]
