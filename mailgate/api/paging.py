"""Pages: `limit` and `cursor` in, `items` and `next_cursor` out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Generic, TypeVar

from pydantic import Field

from mailgate.store.paging import Page
from mailgate.usecases import cursors
from mailgate.usecases.types import Answer, Parameters, text

T = TypeVar("T")
U = TypeVar("U")

LARGEST = 200


class PageQuery(Parameters):
    """Query parameters of every listing."""

    limit: int = Field(default=50, ge=1, le=LARGEST, description="entries on the page")
    cursor: Annotated[str, text(2_000)] | None = Field(default=None, description="`next_cursor` of the page before")


class Items(Answer, Generic[T]):
    """A page of a listing."""

    items: list[T]
    next_cursor: str | None = Field(description="for the next page; null at the end")


class Cursors(cursors.Cursors):
    """Cursors that make whole answers."""

    def page(self, page: Page[T], show: Callable[[T], U]) -> Items[U]:
        """The answer for a page of the store."""
        return Items[U](items=[show(item) for item in page.items], next_cursor=self.write(page.next_key))
