"""What only the long tests (`make soak`) go through. It is made when it is asked for: thousands of cases that every
worker collects and then leaves out cost more than most tests.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Final

import pytest
from hypothesis import settings

SOAK: Final = os.environ.get("HYPOTHESIS_PROFILE") == "soak"
DEEPER: Final = 25
"""How many times as many examples `make soak` tries where a test says how many are enough for each day."""


def also(values: Iterable[object], *marks: pytest.MarkDecorator) -> list[Any]:
    """Parameters for `make soak` alone; none in another run."""
    return [pytest.param(value, marks=[pytest.mark.soak, *marks]) for value in values] if SOAK else []


def examples(most: int, **more: Any) -> settings:
    """`most` examples; in `make soak` many more."""
    return settings(max_examples=min(DEEPER * most, settings().max_examples) if SOAK else most, **more)
