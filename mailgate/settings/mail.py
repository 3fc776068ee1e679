"""What the gateway does with mail servers: which it may reach, how it reads them and sends."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator

from mailgate.settings.fields import KIB, MIB, Network, Section, networks, setting


class NetSettings(Section):
    """What the gateway may connect to."""

    allow: Annotated[tuple[Network, ...], BeforeValidator(networks)] = setting(
        (),
        "Private, loopback or link-local networks to which mail servers and webhooks may resolve; others are refused.",
        unit="networks",
    )


class SyncSettings(Section):
    """Reading mailboxes."""

    poll_interval_s: int = setting(60, "How often folders without IDLE are checked.", unit="seconds", ge=1, le=86_400)
    idle_reissue_s: int = setting(
        600,
        "How long one IDLE lasts before it is issued again, which proves that the line is alive.",
        unit="seconds",
        ge=5,
        le=1_740,
    )
    connect_timeout_s: float = setting(20.0, "Time for name, connection, TLS and login.", unit="seconds", ge=1, le=300)
    command_timeout_s: float = setting(
        60.0, "Time for a server's next bytes in answer to a command.", unit="seconds", ge=1, le=900
    )
    batch_bytes: int = setting(
        4 * MIB,
        "Bytes of messages that an import commits together; bounds memory.",
        unit="bytes",
        ge=256 * KIB,
        le=256 * MIB,
    )
    batch_messages: int = setting(500, "Messages that an import commits together.", unit="messages", ge=1, le=5_000)
    max_message_bytes: int = setting(
        256 * MIB, "A larger message is set aside, not stored.", unit="bytes", ge=1 * MIB, le=2048 * MIB
    )
    imports_at_once: int = setting(
        4,
        "First imports that run at the same time; the others wait in line, fairly between tenants; live mailboxes "
        "do not wait.",
        unit="mailboxes",
        ge=1,
        le=100,
    )
    connects_at_once: int = setting(
        32,
        "Connections that are being opened at the same time, to all mail servers together.",
        unit="connections",
        ge=1,
        le=1_000,
    )
    host_connects_at_once: int = setting(
        16,
        "The same to one mail server; fewer while it refuses or does not answer.",
        unit="connections",
        ge=1,
        le=1_000,
    )
    host_connections: int = setting(
        0,
        "Connections to one mail server that are open at the same time (each mailbox has one); mailboxes beyond take "
        "turns, fairly between tenants. 0: no limit.",
        unit="connections",
        ge=0,
        le=100_000,
    )
    lease_s: int = setting(
        30, "How long a mailbox stays owned by a process that went silent.", unit="seconds", ge=5, le=600
    )
    backoff_min_s: float = setting(5.0, "First pause after a fault of line or server.", unit="seconds", ge=0.01, le=600)
    backoff_max_s: float = setting(900.0, "Longest pause between attempts.", unit="seconds", ge=1, le=86_400)
    push_attempts: int = setting(
        30,
        "How often the mail server may put off a change that the CRM asked for, before it fails; with the pauses as "
        "they are set here, that is after five hours and a half.",
        unit="attempts",
        ge=1,
        le=100,
    )


class SendingSettings(Section):
    """Outgoing mail."""

    max_message_bytes: int = setting(
        25 * MIB,
        "Largest message that is sent, as it leaves (files grow by a third on the way); bounds memory.",
        unit="bytes",
        ge=64 * KIB,
        le=256 * MIB,
    )
    max_recipients: int = setting(100, "Recipients of one message at most.", unit="addresses", ge=1, le=10_000)
    at_once: int = setting(8, "Messages that one process sends at the same time.", unit="connections", ge=1, le=500)
    host_connections: int = setting(
        4, "Connections of one process to one server at the same time.", unit="connections", ge=1, le=500
    )
    give_up_hours: int = setting(
        24, "How long a message that the server puts off is tried again.", unit="hours", ge=1, le=240
    )
    command_timeout_s: float = setting(300.0, "Time for an answer to a command.", unit="seconds", ge=1, le=1_800)
    end_timeout_s: float = setting(
        600.0,
        "Time for the answer to a whole message; a server that took it may still be silent.",
        unit="seconds",
        ge=1,
        le=3_600,
    )
