"""The text index has the beginnings of words, and the mailbox of a message. Words are written anew, behind.

Until that is done, a search finds the newest of what was written so far (`mailgate_messages_unindexed`). An index that
is half of one kind and half of the other would find less by a prefix, or in a mailbox, and say nothing of it.
"""

from __future__ import annotations

from alembic import op

revision = "0021"
down_revision = "0018"
branch_labels = None
depends_on = None

_MAKE = {
    "sqlite": ["CREATE VIRTUAL TABLE search_index USING fts5(terms, detail=none, columnsize=0, tokenize='ascii')"],
    "postgresql": [
        "CREATE TABLE search_index (doc BIGINT PRIMARY KEY, tenant_id VARCHAR(64) NOT NULL, terms TSVECTOR NOT NULL)",
        "CREATE INDEX ix_search_index_terms ON search_index USING gin (terms)",
        "CREATE INDEX ix_search_index_tenant_id ON search_index (tenant_id, doc)",
    ],
}


def upgrade() -> None:
    _begin_anew()


def downgrade() -> None:
    _begin_anew()


def _begin_anew() -> None:
    op.execute("DROP TABLE search_index")
    for statement in _MAKE[op.get_bind().dialect.name]:
        op.execute(statement)
    op.execute("DELETE FROM search_docs")
    op.execute("UPDATE messages SET indexed = false WHERE indexed")
