"""Forms for an account's settings: what was typed becomes what the HTTP interface takes, or a word beside its field.

Passwords go in, never out: a form that comes back has them empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError

from connectors.autoconfig.model import Discovery
from mailgate.admin.languages import marked
from mailgate.store.mailboxes import Mailbox
from mailgate.usecases.accounts import MailboxBody, MailboxPatchBody

SECURITIES: Final[Mapping[str, str]] = {
    "tls": marked("TLS"),
    "starttls": marked("STARTTLS"),
    "none": marked("none: not protected"),
}
_FAULTS: Final[Mapping[str, str]] = {
    "address": marked("Write an address like ann@example.com."),
    "owner": marked("Write at most 200 characters."),
    "host": marked("Write a host name or an IP address."),
    "port": marked("Write a number from 1 to 65535."),
    "security": marked("Choose one of the list."),
    "username": marked("Write the user name, at most 320 characters."),
    "password": marked("Write the password."),
    "include": marked("Write one pattern a line, at most 200 of them."),
    "exclude": marked("Write one pattern a line, at most 200 of them."),
}
_NEW: Final[Mapping[str, str]] = {
    "imap_port": "993",
    "imap_security": "tls",
    "smtp_port": "465",
    "smtp_security": "tls",
}
_ACCOUNTS = tuple(f"{name}_{part}" for name in ("imap", "smtp") for part in ("host", "port", "security", "username"))
_SHOWN = ("address", "owner", "include", "exclude", *_ACCOUNTS)


@dataclass(frozen=True, slots=True)
class AccountForm:
    """What stands in the fields, and what is wrong with which: `faults` by the field's name, to be translated."""

    values: Mapping[str, str]
    shared: bool = False
    faults: Mapping[str, str] = field(default_factory=dict)

    def value(self, name: str) -> str:
        """What stands in a field."""
        return self.values.get(name, "")

    def fault(self, name: str) -> str | None:
        """What is wrong with it."""
        return self.faults.get(name)


def blank() -> AccountForm:
    """For an account that is new."""
    return AccountForm(_NEW)


def found(discovery: Discovery) -> AccountForm:
    """For an account that is new, with the servers that were found for its address."""
    values = {**_NEW, "address": discovery.address}
    offer = discovery.offer
    for name, server in () if offer is None else (("imap", offer.imap), ("smtp", offer.smtp)):
        if server is not None:
            values |= {
                f"{name}_host": server.host,
                f"{name}_port": str(server.port),
                f"{name}_security": server.security.value,
                f"{name}_username": server.username,
            }
    return AccountForm(values)


def of_mailbox(mailbox: Mailbox) -> AccountForm:
    """With a mailbox's settings."""
    values = {"address": mailbox.address, "owner": mailbox.owner or ""}
    for name, settings in (("imap", mailbox.imap), ("smtp", mailbox.smtp)):
        values |= {f"{name}_{part}": str(value) for part, value in (settings or {}).items()}
    values |= {name: "\n".join(mailbox.folder_rules.get(name, ())) for name in ("include", "exclude")}
    return AccountForm({**_NEW, **values}, mailbox.shared)


def typed(form: Mapping[str, str], faults: Mapping[str, str] | None = None) -> AccountForm:
    """As it was typed, without the passwords."""
    values = {name: form.get(name, "")[:5_000] for name in _SHOWN}
    return AccountForm(values, form.get("shared") == "1", faults or {})


def body_of(form: Mapping[str, str]) -> MailboxBody:
    """The account to connect. Raises ValidationError."""
    values: dict[str, Any] = {
        "address": form.get("address", "").strip(),
        "owner": form.get("owner", "").strip() or None,
        "shared": form.get("shared") == "1",
        "imap": _account(form, "imap"),
        "folders": _rules(form),
    }
    if form.get("smtp_host", "").strip():
        values["smtp"] = _with_password(_account(form, "smtp"), form)
    return MailboxBody.model_validate(values)


def patch_of(form: Mapping[str, str], mailbox: Mailbox) -> MailboxPatchBody:
    """What the form changes of a mailbox; a password that is left empty stays. Raises ValidationError."""
    values: dict[str, Any] = {
        "address": form.get("address", "").strip(),
        "owner": form.get("owner", "").strip() or None,
        "shared": form.get("shared") == "1",
        "folders": _rules(form),
    }
    for name, old in (("imap", mailbox.imap), ("smtp", mailbox.smtp)):
        if name == "smtp" and not form.get("smtp_host", "").strip():
            continue
        account = _account(form, name)
        if old is None:
            account = _with_password(account, form)
        if not account["auth"]["password"]:
            del account["auth"]
        same = {"host", "port", "security", "username"} <= set(old or {}) and all(
            account[part] == (old or {})[part] for part in ("host", "port", "security", "username")
        )
        if not same:
            values[name] = account
        elif "auth" in account:
            values[name] = {"auth": account["auth"]}
    return MailboxPatchBody.model_validate(values)


def faults_of(error: ValidationError) -> dict[str, str]:
    """What is wrong, by the field's name; never the value."""
    found = {}
    for fault in error.errors(include_input=False, include_url=False):
        parts = [str(part) for part in fault["loc"] if part not in ("auth", "folders") and not isinstance(part, int)]
        found["_".join(parts)] = _FAULTS.get(parts[-1] if parts else "", str(fault["msg"]))
    return found


def _account(form: Mapping[str, str], name: str) -> dict[str, Any]:
    port = form.get(f"{name}_port", "").strip()
    username = form.get(f"{name}_username", "").strip()
    return {
        "host": form.get(f"{name}_host", "").strip().lower(),
        "port": int(port) if port.isascii() and port.isdigit() and len(port) < 9 else 0,
        "security": form.get(f"{name}_security", "tls"),
        "username": username or form.get("address", "").strip(),
        "auth": {"password": form.get(f"{name}_password", "")},
    }


def _with_password(account: dict[str, Any], form: Mapping[str, str]) -> dict[str, Any]:
    """Sending mostly has the same password as reading."""
    return {**account, "auth": {"password": account["auth"]["password"] or form.get("imap_password", "")}}


def _rules(form: Mapping[str, str]) -> dict[str, list[str]]:
    return {
        name: [line.strip() for line in form.get(name, "").splitlines() if line.strip()]
        for name in ("include", "exclude")
    }
