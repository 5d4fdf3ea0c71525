"""The nodes of these tests say thousands of lines; none of them is looked at."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.lines import captured_lines


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with captured_lines():
        yield
