"""What the gateway offers: the HTTP interface, events and webhooks, pages, limits and logs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from mailgate.settings.fields import KIB, MIB, Section, listed, setting


class HttpSettings(Section):
    """The HTTP interface."""

    host: str = setting("127.0.0.1", "Address to listen on.", min_length=1, max_length=255)
    port: int = setting(8025, "Port to listen on; 0 takes a free one.", unit="port", ge=0, le=65_535)
    public_url: str = setting(
        "",
        "The address by which clients reach the gateway. Empty: http://host:port.",
        written="https://host or http://host, with a path if there is one",
        pattern=r"^(https?://[^\s/]+(/\S*)?)?$",
    )
    docs: bool = setting(True, "Serve the reference at /docs.")
    stalled_s: float = setting(
        60.0,
        "How long a client may take nothing of an answer that waits for it; then its connection is cut. How long the "
        "whole answer takes is not limited.",
        unit="seconds",
        ge=0.1,
        le=3_600,
    )
    keep_alive_s: int = setting(
        75,
        "How long a connection is kept for the next request. More than a client or a proxy keeps it: who sends on a "
        "connection that is being closed gets no answer, and does not know whether the request was taken.",
        unit="seconds",
        ge=1,
        le=3_600,
    )
    shutdown_grace_s: float = setting(
        10.0, "How long running requests may go on after a signal to stop.", unit="seconds", ge=0, le=300
    )


class EventsSettings(Section):
    """The change feed."""

    keep_days: int = setting(
        30, "How long events are kept; a reader that stays away longer takes a new snapshot.", unit="days", ge=1, le=400
    )
    readers: int = setting(
        200,
        "Readers of the feed that one process keeps waiting or streams to at the same time, half of them at most with "
        "tokens of one tenant; others are told to come back.",
        unit="readers",
        ge=1,
        le=10_000,
    )
    keep_alive_s: float = setting(
        15.0, "How often a stream without events says that it is alive.", unit="seconds", ge=0.05, le=300
    )
    poll_interval_s: float = setting(
        1.0,
        "How often is looked for events of which no process told, as after one was killed.",
        unit="seconds",
        ge=0.05,
        le=60,
    )


class WebhooksSettings(Section):
    """Events that are sent to receivers."""

    at_once: int = setting(16, "Requests to receivers at the same time.", unit="requests", ge=1, le=500)
    timeout_s: float = setting(15.0, "Time for a receiver to answer.", unit="seconds", ge=1, le=120)
    give_up_hours: int = setting(
        72, "How long an event is tried before the endpoint is paused.", unit="hours", ge=1, le=720
    )
    keep_days: int = setting(14, "How long deliveries that are over are listed.", unit="days", ge=1, le=400)
    per_tenant: int = setting(
        20, "Endpoints that one tenant may have, and as many that are for all.", unit="endpoints", ge=1, le=1_000
    )
    allow_http: bool = setting(False, "Receivers may be reached without TLS, over http.")


class LogSettings(Section):
    """The gateway's own log, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = setting("info", "The least serious entries that are written.")
    format: Literal["auto", "json", "console"] = setting(
        "auto", "json: one object a line; console: for people; auto: console on a terminal, else json."
    )


class OnboardingSettings(Section):
    """Finding a mailbox's settings, checking them, and links by which people connect their mailboxes themselves."""

    lookups: bool = setting(
        True,
        "Ask DNS and an address' domain for its mail servers. Off: only known providers, and a guess that is marked.",
    )
    lookup_timeout_s: float = setting(8.0, "Time for each place that is asked.", unit="seconds", ge=0.1, le=60)
    dns_servers: Annotated[tuple[Annotated[str, Field(max_length=45)], ...], BeforeValidator(listed)] = setting(
        (),
        "Addresses of the name servers that are asked for services and mail hosts (SRV, MX). Empty: this machine's.",
        max_length=10,
    )
    verify_timeout_s: float = setting(
        45.0, "Time for checking one server's settings, from name to sender.", unit="seconds", ge=1, le=300
    )
    checks_at_once: int = setting(
        20,
        "Accounts that one process checks at once, half of them at most for one tenant; more are answered 503.",
        unit="accounts",
        ge=1,
        le=1_000,
    )
    link_hours: int = setting(
        72, "How long a connect link is good when nothing else is asked for.", unit="hours", ge=1, le=720
    )
    link_attempts: int = setting(
        30,
        "How often servers may be looked up or checked by one connect link; then it is void.",
        unit="attempts",
        ge=1,
        le=1_000,
    )
    link_keep_days: int = setting(
        30, "How long a connect link is listed after it was used, revoked or expired.", unit="days", ge=1, le=400
    )
    return_urls: Annotated[tuple[Annotated[str, Field(max_length=2_000)], ...], BeforeValidator(listed)] = setting(
        (),
        "Where a person may be sent back to after a connect link: beginnings of URLs, up to a whole part of the path, "
        "such as https://crm.example/settings. Empty: nowhere.",
        max_length=100,
    )
    service_name: str = setting(
        "",
        "What people know the CRM as; the page behind a connect link names it. Empty: the tenant alone.",
        max_length=100,
    )


class LimitsSettings(Section):
    """What one client may ask of the gateway."""

    request_bytes: int = setting(1 * MIB, "Largest body of a request.", unit="bytes", ge=16 * KIB, le=64 * MIB)
    parse_bytes: int = setting(
        32 * MIB,
        "Larger messages are served raw only; their text and parts are not taken apart.",
        unit="bytes",
        ge=1 * MIB,
        le=256 * MIB,
    )
    parses_at_once: int = setting(
        2, "Messages that are taken apart for answers at the same time.", unit="messages", ge=1, le=64
    )
    uploads_at_once: int = setting(
        16,
        "Messages that clients append at the same time, each in about 3 MiB of memory, and letters of more than "
        "limits.request_bytes that they submit; more are answered 429.",
        unit="messages",
        ge=1,
        le=1_000,
    )
    exports_at_once: int = setting(
        4,
        "Purge logs that are handed out at the same time, each on the disk in data_dir/exports until it is sent; more "
        "are answered 503.",
        unit="exports",
        ge=1,
        le=100,
    )
    pins_per_message: int = setting(
        1_000,
        "Records that may refer to one message: each answer and event that has the message names them all. More are "
        "answered 409.",
        unit="pins",
        ge=1,
        le=100_000,
    )
    idempotency_hours: int = setting(24, "How long an Idempotency-Key is remembered.", unit="hours", ge=1, le=720)
    requests_per_minute: int = setting(
        6_000,
        "Requests of one token, in the long run; more are answered 429. Each process counts for itself. 0: no limit.",
        unit="requests",
        ge=0,
        le=1_000_000,
    )
    requests_burst: int = setting(
        1_000, "Requests that a token which was quiet may make at once.", unit="requests", ge=1, le=1_000_000
    )


class PagesSettings(Section):
    """The pages at /admin."""

    enabled: bool = setting(True, "Serve them.")
    secure_cookie: bool = setting(
        False,
        "Mark the session's cookie Secure always. It is so anyway over https, and where http.public_url is https.",
    )
    idle_minutes: int = setting(60, "A session that nobody used for so long is over.", unit="minutes", ge=5, le=1_440)
    session_hours: int = setting(12, "How long a session lasts at most.", unit="hours", ge=1, le=720)


class AccessLogSettings(Section):
    """Who read or changed what."""

    keep_days: int = setting(400, "How long its entries are kept.", unit="days", ge=1, le=3_650)
