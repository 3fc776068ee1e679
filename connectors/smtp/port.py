"""What sending needs of a connection to a submission server. Implemented by `connectors.smtp.session`."""

from __future__ import annotations

from collections.abc import AsyncIterable
from typing import Protocol

from connectors.smtp.model import Envelope, Reply


class Submitter(Protocol):
    """One connection on which messages may be handed over, one after the other."""

    @property
    def greeting(self) -> str:
        """The text with which the server greeted."""
        ...

    async def offer(self, envelope: Envelope) -> list[Reply]:
        """Say who sends and who gets it; the answer to each recipient."""
        ...

    async def transfer(self, content: AsyncIterable[bytes]) -> Reply:
        """Hand the content over; the answer by which the server took responsibility."""
        ...

    async def close(self) -> None:
        """End politely."""
        ...

    def drop(self) -> None:
        """End at once."""
        ...
