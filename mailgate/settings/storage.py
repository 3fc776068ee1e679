"""Where things are kept: rows, bytes of messages, keys, and the purge log's signature."""

from __future__ import annotations

from typing import Literal

from mailgate.settings.fields import Section, setting


class DatabaseSettings(Section):
    """Where rows live. SQLite serves one process; PostgreSQL as many as one likes."""

    url: str = setting(
        "",
        "Database URL: sqlite:///path or postgresql://user:password@host/name, with ?sslmode=verify-full over a "
        "network that others use. Empty: sqlite in data_dir.",
        secret=True,
    )
    password: str = setting(
        "",
        "Password of the user that `database.url` names, as it is: nothing in it is encoded. "
        "Empty: the one that stands in the URL, percent-encoded, if any.",
        secret=True,
    )
    pool_size: int = setting(
        8,
        "Connections that one process keeps open (SQLite: readers beside the one writer).",
        unit="connections",
        ge=1,
        le=200,
    )
    busy_timeout_s: float = setting(
        30.0, "SQLite: how long to wait for another process's write.", unit="seconds", ge=0.1, le=600
    )


class BlobsSettings(Section):
    """Where the bytes of messages live, compressed and encrypted."""

    url: str = setting(
        "",
        "Blob store URL: file:///path, s3://bucket/prefix, gs://… or az://…. Empty: a directory in data_dir.",
        secret=True,
    )


class KeysSettings(Section):
    """Where keys live: never in the database, never beside the blobs in a shared store."""

    url: str = setting(
        "", "Key store URL: file:///path. Empty: a directory in data_dir. Back it up apart from the database."
    )
    rotate: Literal["monthly", "never"] = setting(
        "monthly",
        "After a month what survived it is wrapped under the new month's keys by itself, and the old keys are "
        "destroyed; or only by `mailgate key rotate`.",
    )
    keep_epochs_days: int = setting(
        35,
        "The key of a month stays for so long after nothing needs it: a database backup that is older can't be read "
        "any more. Keep no backup for longer.",
        unit="days",
        ge=1,
        le=3_650,
    )


class LedgerSettings(Section):
    """The purge log."""

    origin: str = setting(
        "",
        "Name of this installation in the purge log (a DNS name that you own); fixed for good by the first start. "
        "Empty: the machine's name.",
        written="a name of letters, digits, '.', '_', '-' and '/', such as mail.example.com",
        max_length=200,
        pattern=r"^([A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?)?$",
    )
    witness: str = setting(
        "",
        "Directory for a copy of every signed log checkpoint, on other storage than the database, so that a restored "
        "backup is noticed. "
        "Empty: in data_dir, where a rollback of the whole disk would go unseen.",
    )
    keep_entries: bool = setting(
        True,
        "Keep a copy of the logs' entries there too. Without it a restored backup can't be brought up to date by "
        "`mailgate restore`.",
    )
    timestamp_url: str = setting(
        "",
        "Where a time-stamping authority answers (RFC 3161 over HTTP); it is asked for a stamp on the newest "
        "checkpoint of each log. Empty: no stamps.",
        written="https://host/path or http://host/path",
        max_length=2_000,
        pattern=r"^(https?://[^\s]+)?$",
    )
    timestamp_ca: str = setting(
        "",
        "PEM file with the authority's root certificates. With it, stamps are verified before they are kept; without "
        "it, only auditors verify them.",
    )
    sign_interval_s: int = setting(
        3600, "How often a log that grew is signed, beside after each run.", unit="seconds", ge=60, le=86_400
    )
