"""The words of what is gone leave the text index behind the purge: until then their numbers stand in a list."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "search_leftovers",
        sa.Column("doc", number, autoincrement=False, nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("doc", name=op.f("pk_search_leftovers")),
        comment="numbers in search_index whose messages are gone: their tokens go behind the purge",
    )
    op.create_index("ix_search_leftovers_tenant_id", "search_leftovers", ["tenant_id"])


def downgrade() -> None:
    key = "rowid" if op.get_bind().dialect.name == "sqlite" else "doc"
    op.execute(f"DELETE FROM search_index WHERE {key} IN (SELECT doc FROM search_leftovers)")  # noqa: S608 - no values
    op.drop_index("ix_search_leftovers_tenant_id", table_name="search_leftovers")
    op.drop_table("search_leftovers")
