"""Before a mailbox is connected: which servers has this address?"""

from __future__ import annotations

from connectors.autoconfig.model import Discovery
from mailgate.usecases.parts import Services


async def find(parts: Services, address: str, tenant_id: str | None) -> Discovery:
    """Settings for an address; `tenant_id`: for whom. Raises NoAddressError, UnavailableError (too_many_checks)."""
    with parts.checks.place(tenant_id):
        return await parts.find(address, ask=parts.settings.onboarding.lookups)
