"""Blobs are kept by their count of references alone, and tombstones by their tenant's lock: no foreign keys to them.

PostgreSQL asks once for each key and row that goes or comes, which was a sixth of a purge.
"""

from __future__ import annotations

import re

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

_KEYS = {
    "messages": ("blob_id", "blobs"),
    "submissions": ("blob_id", "blobs"),
    "tombstones": ("tenant_id", "tenants"),
}


def upgrade() -> None:
    op.drop_index("ix_messages_blob_id", "messages")
    for table, (column, _) in _KEYS.items():
        if op.get_bind().dialect.name == "sqlite":
            _rewrite(table, rf",\s*CONSTRAINT fk_{table}_{column} FOREIGN KEY\({column}\) REFERENCES \w+ \(id\)", "")
        else:
            op.drop_constraint(f"fk_{table}_{column}", table, type_="foreignkey")


def downgrade() -> None:
    for table, (column, target) in _KEYS.items():
        if op.get_bind().dialect.name == "sqlite":
            key = f"CONSTRAINT fk_{table}_{column} FOREIGN KEY({column}) REFERENCES {target} (id)"
            _rewrite(table, rf"(CONSTRAINT pk_{table} PRIMARY KEY \(id\))", rf"\1, \n\t{key}")
        else:
            op.create_foreign_key(f"fk_{table}_{column}", table, target, [column], ["id"])
    op.create_index("ix_messages_blob_id", "messages", ["blob_id"])


def _rewrite(table: str, old: str, new: str) -> None:
    """Change what SQLite has on record of a table, as its manual says for constraints (lang_altertable.html, "Making
    Other Kinds Of Table Schema Changes"): what is stored stays as it is, where a new table would be a copy of it all.
    """
    bind = op.get_bind()
    of = {"name": table}
    sql = bind.execute(sa.text("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = :name"), of).scalar_one()
    sql, count = re.subn(old, new, sql)
    if count != 1:
        raise RuntimeError(f"the table {table} does not look as expected")
    version = bind.exec_driver_sql("PRAGMA schema_version").scalar_one()
    bind.exec_driver_sql("PRAGMA writable_schema=ON")
    of["sql"] = sql
    bind.execute(sa.text("UPDATE sqlite_master SET sql = :sql WHERE type = 'table' AND name = :name"), of)
    bind.exec_driver_sql(f"PRAGMA schema_version={version + 1}")
    bind.exec_driver_sql("PRAGMA writable_schema=RESET")
