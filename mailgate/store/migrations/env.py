"""Alembic environment: uses the open connection that `mailgate.store.migrate` hands over; there is no alembic.ini."""

from __future__ import annotations

from alembic import context

from mailgate.store.schema import metadata

# The text index is made by DDL of each database (FTS5, tsvector) and is no part of the metadata.
_OWN_TABLES = ("search_index", "sqlite_sequence")


def include_name(name: str | None, type_: str, _parents: object) -> bool:
    """Leave the text index and its shadow tables out of comparisons."""
    return not (type_ == "table" and name is not None and name.startswith(_OWN_TABLES))


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    include_name=include_name,
)
with context.begin_transaction():
    context.run_migrations()
