"""Collects what the contract suite finds, and writes the page that says so when it is asked to (`make docs`)."""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.support.promise_table import KEPT, PAGE, page_of

_FOUND: dict[tuple[str, str], str] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """`promise` and `kind` are properties that a test has recorded of itself."""
    properties: dict[str, Any] = dict(report.user_properties)
    if report.when == "call" and "promise" in properties:
        _FOUND[properties["promise"], properties["kind"]] = KEPT if report.passed else report.outcome


def pytest_sessionfinish() -> None:
    if _FOUND and os.environ.get("COMMITD_REWRITE"):
        PAGE.write_text(page_of(_FOUND), encoding="utf-8")
