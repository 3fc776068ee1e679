"""Bodies as a client would send them, for the OpenAPI document; by the name of their schema."""

from __future__ import annotations

from typing import Any, Final

EXAMPLES: Final[dict[str, dict[str, Any]]] = {
    "TenantBody": {"name": "Acme"},
    "SubscriptionBody": {"plan": "standard"},
    "MailboxBody": {
        "address": "ann@acme.example",
        "owner": "ann",
        "imap": {
            "host": "imap.acme.example",
            "port": 993,
            "security": "tls",
            "username": "ann@acme.example",
            "auth": {"password": "correct horse"},
        },
        "smtp": {
            "host": "smtp.acme.example",
            "port": 465,
            "security": "tls",
            "username": "ann@acme.example",
            "auth": {"password": "correct horse"},
        },
    },
    "MessagePatchBody": {"flags": {"add": ["\\Seen"], "remove": ["\\Flagged"]}},
    "SubmissionBody": {
        "to": ["Bob <bob@other.example>"],
        "subject": "Your offer",
        "text": "Dear Bob, …",
        "attachments": [
            {"filename": "offer.txt", "content_type": "text/plain", "content_base64": "Zm91ciB0aG91c2FuZA=="}
        ],
    },
    "PinBody": {"note": "the signed offer"},
    "HoldBody": {"scope": {"tenant": True}, "matter": "2026-114 Miller", "reason": "claim received"},
    "WebhookBody": {"url": "https://crm.example/hooks/mail", "tenant_id": "acme", "types": ["message.*"]},
    "ReplayBody": {"since": "2026-05-27T09:00:00Z"},
    "TokenBody": {"name": "the CRM of Acme", "scopes": ["crm"], "tenant_id": "acme"},
    "RunBody": {"tenant": "acme", "dry_run": True},
}
