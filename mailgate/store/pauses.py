"""Pauses that the database holds, as `mailgate.clock.is_over` judges them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, or_

from mailgate.clock import Instant


def over(until_at: ColumnElement[Any], now: Instant, longest: Instant) -> ColumnElement[bool]:
    """Whether the pause that a column says is over; NULL: NULL."""
    return or_(until_at <= now, until_at > now + longest)
