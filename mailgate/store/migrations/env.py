"""Alembic environment: uses the open connection that `mailgate.store.migrate` hands over; there is no alembic.ini."""

from __future__ import annotations

from alembic import context

from mailgate.store.migrations.names import include_name
from mailgate.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    include_name=include_name,
)
with context.begin_transaction():
    context.run_migrations()
