"""What Alembic compares: everything but the text index, which each database makes in its own way (FTS5, tsvector)."""

from __future__ import annotations

_OWN_TABLES = ("search_index", "sqlite_sequence", "alembic_version")


def include_name(name: str | None, type_: str, _parents: object) -> bool:
    """Leave the text index and its shadow tables out of comparisons."""
    return not (type_ == "table" and name is not None and name.startswith(_OWN_TABLES))
