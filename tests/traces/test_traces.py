"""The stories in this directory, each with its exact output.

Goal: a reader, or a reviewer of a change, sees what the protocol does, step by step, and what a change does to it. A
behaviour that changes on purpose is written down with COMMITD_REWRITE=1, and the difference is read.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.traces.runner import played

STORIES = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("story", STORIES, ids=lambda path: path.stem)
def test_story(story: Path) -> None:
    written = story.read_text(encoding="utf-8")
    now = played(written)
    if os.environ.get("COMMITD_REWRITE"):
        story.write_text(now, encoding="utf-8")
        return
    assert now == written


def test_there_are_stories() -> None:
    assert len(STORIES) >= 10


def test_a_story_that_does_not_fit_is_told_apart() -> None:
    """The comparison itself: the first story with one word changed is not what happens."""
    written = STORIES[0].read_text(encoding="utf-8")
    changed = written.replace("proposes begin", "proposes nothing")
    assert changed != written
    assert played(changed) == written
