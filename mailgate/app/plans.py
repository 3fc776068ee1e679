"""The catalogue of plans, read from its file, and read again when that was changed while the gateway runs."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import structlog

from mailgate.actors import SYSTEM
from mailgate.clock import Clock
from mailgate.errors import ConfigurationError
from mailgate.settings import Settings
from mailgate.store.database import Database
from mailgate.store.log import LogPolicy, PurgeLog
from mailgate.store.retention import RetentionService
from mailgate.store.subscriptions import Subscriptions
from mailgate.tenants.catalogue import Catalogue, parse_catalogue
from retention.model import AnchorFrom, Brake, Graces
from retention.policy import Policy

_log = structlog.get_logger("mailgate.plans")

_PACKAGE = Path(__file__).parents[1]
# Installed, the plans lie inside the package; in a checkout, beside it.
_PLANS = (_PACKAGE / "defaults" / "plans.toml", _PACKAGE.parent / "config" / "plans.toml")


def read_plans(settings: Settings) -> Catalogue:
    """The catalogue of plans that the settings name. Raises ConfigurationError, which says in which file."""
    return _parse(*_read(settings))


def _parse(path: Path, data: bytes) -> Catalogue:
    try:
        return parse_catalogue(data)
    except ConfigurationError as error:
        raise ConfigurationError(f"{error.detail} (in {path})") from error


def _read(settings: Settings) -> tuple[Path, bytes]:
    candidates = (Path(settings.plans.file),) if settings.plans.file else _PLANS
    for path in candidates:
        try:
            return path, path.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ConfigurationError(f"the plans {path} can't be read: {error.strerror}") from error
    raise ConfigurationError(f"the plans {candidates[0]} do not exist: put them there, or name them by `plans.file`")


def policy_of(settings: Settings, catalogue: Catalogue) -> Policy:
    """The retention policy that settings and plans make together."""
    retention = settings.retention
    return Policy(
        version=catalogue.version,
        catalogue_sha256=catalogue.sha256,
        anchor=AnchorFrom(retention.anchor),
        graces=Graces(
            after_storing=retention.min_residence_days,
            after_shrink=retention.plan_shrink_grace_days,
            after_unpin=retention.unpin_grace_days,
            after_release=retention.hold_release_days,
            past_due=retention.past_due_grace_days,
            rehydrated=retention.rehydrate_days,
        ),
        brake=Brake(minimum=retention.brake_min, share=retention.brake_share),
    )


class PlanFile:
    """Looks at the file now and then. A change is taken over when it is right as a whole, else left with a word in the
    log and in readyz: the plans that were right before hold on.
    """

    def __init__(
        self,
        settings: Settings,
        db: Database,
        log: PurgeLog,
        subscriptions: Subscriptions,
        retention: RetentionService,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._db = db
        self._log = log
        self._subscriptions = subscriptions
        self._retention = retention
        self._clock = clock
        self._looked_at = subscriptions.catalogue.sha256
        self.fault: str | None = None
        """What is wrong with the file as it is now; None when it is what holds."""

    async def look(self) -> bool:
        """Take over what was changed; whether anything was. Every log hears of the new policy before anything is done
        under it.
        """
        try:
            path, data = await asyncio.to_thread(_read, self._settings)
            if hashlib.sha256(data).hexdigest() == self._looked_at:
                if self.fault is not None:
                    _log.info("plans_mended", detail="they are again those that held all the time")
                self.fault = None
                return False
            catalogue = _parse(path, data)
        except ConfigurationError as error:
            if error.detail != self.fault:
                _log.error(
                    "plans_refused", detail=error.detail, remedy="the plans that held before hold on; mend the file"
                )
            self.fault = error.detail
            return False
        known = self._subscriptions.catalogue
        if catalogue.version == known.version and catalogue.sha256 != known.sha256:
            _log.warning("plans_version_not_raised", version=catalogue.version)
        policy = policy_of(self._settings, catalogue)
        await self._log.adopt(self._db, LogPolicy(policy.version, policy.document), at=self._clock(), actor=SYSTEM)
        await self._retention.adopt(policy)
        self._subscriptions.catalogue = catalogue
        await self._subscriptions.compute_anew()
        self._looked_at, self.fault = catalogue.sha256, None
        _log.info("plans_changed", version=catalogue.version, sha256=catalogue.sha256)
        return True
