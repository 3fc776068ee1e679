"""The words of what is gone leave the text index behind the purge: until then their numbers stand in a list.

What is derived from a message refers to it by no foreign key any more: PostgreSQL looks at each key once for every
message that goes, which took a third of what a purge costs it. Those rows are written in the transaction that writes
the message, or under its lock; the doctor looks for ones that are left over.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

_DERIVED = {"search_docs": "fk_search_docs_message_id", "message_links": "fk_message_links_message_id_messages"}


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
    for table, key in _DERIVED.items():
        with op.batch_alter_table(table, table_kwargs=_kind(table)) as batch:
            batch.drop_constraint(key, type_="foreignkey")


def downgrade() -> None:
    for table, key in _DERIVED.items():
        with op.batch_alter_table(table, table_kwargs=_kind(table)) as batch:
            batch.create_foreign_key(key, "messages", ["message_id"], ["id"])
    key = "rowid" if op.get_bind().dialect.name == "sqlite" else "doc"
    op.execute(f"DELETE FROM search_index WHERE {key} IN (SELECT doc FROM search_leftovers)")  # noqa: S608 - no values
    op.drop_index("ix_search_leftovers_tenant_id", table_name="search_leftovers")
    op.drop_table("search_leftovers")


def _kind(table: str) -> dict[str, bool]:
    return {"sqlite_with_rowid": False} if table == "message_links" else {}
