"""`make test` leaves nothing out."""

from __future__ import annotations

import re

from tests.house.tree import ROOT


def test_every_folder_of_tests_is_run_by_a_stage() -> None:
    """Goal: a new folder of tests is not forgotten. Seen red with one that no stage named."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"\btests/(\w+)", makefile))
    folders = {file.relative_to(ROOT / "tests").parts[0] for file in (ROOT / "tests").rglob("test_*.py")}
    assert folders - named == set()


def test_every_stage_is_a_verb() -> None:
    """Goal: what `make test` runs can be run alone, and `make help` names it."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (stages,) = re.findall(r"^STAGES := (.*)$", makefile, re.MULTILINE)
    verbs = set(re.findall(r"^([a-z]+):.*## ", makefile, re.MULTILINE))
    assert set(stages.split()) - verbs == set()
