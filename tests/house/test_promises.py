"""The page of promises lists all promises of all resource managers, each of them seen kept."""

from __future__ import annotations

from tests.support.promise_table import KEPT, PAGE, PROMISES, page_of
from tests.support.subjects import SUBJECTS


def test_every_resource_manager_was_seen_to_keep_every_promise() -> None:
    """Goal: a new promise or resource manager is not on the page before it was tried: `make docs`.

    Seen red with a page on which one cell said "failed", and with one that lacked a row.
    """
    kept = {(promise, kind): KEPT for promise in PROMISES for kind in SUBJECTS}
    assert PAGE.read_text(encoding="utf-8") == page_of(kept)


def test_what_was_not_tried_is_not_called_kept() -> None:
    """Goal: the comparison above can fail: a missing and a failed check both show."""
    page = page_of({(PROMISES[0], kind): "failed" for kind in SUBJECTS})
    assert page.count("failed") == len(SUBJECTS)
    assert page.count("not tried") - page_of({}).count("not tried") == -len(SUBJECTS)
