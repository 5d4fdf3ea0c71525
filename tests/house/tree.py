"""The project's files, as the house rules see them."""

from __future__ import annotations

from pathlib import Path

__all__ = ["PACKAGES", "ROOT", "code", "modules", "pages", "texts"]

ROOT = Path(__file__).parents[2]
PACKAGES = ("raftlog", "participant", "coordinator")

_TEXT_SUFFIXES = {".py", ".md", ".toml", ".sh", ".sql", ".json", ".csv", ".yml", ".yaml", ".html", ".js", ".css"}
_CODE_PLACES = (*PACKAGES, "tests", "benchmarks", "examples")
_TEXT_PLACES = (*_CODE_PLACES, "docs", ".ci")
_TEXT_NAMES = (
    "Makefile",
    ".importlinter",
    ".gitignore",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "pyproject.toml",
)


def modules() -> list[str]:
    """Every module of the three packages, by its dotted name."""
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files)
    return sorted(name.removesuffix(".__init__") for name in names)


def code(*places: str) -> list[Path]:
    """The Python files under `places`, or all of them."""
    return sorted(path for place in places or _CODE_PLACES for path in (ROOT / place).rglob("*.py"))


def pages() -> list[Path]:
    """What people read: the Markdown files."""
    return [path for path in texts() if path.suffix == ".md"]


def texts() -> list[Path]:
    """Everything that somebody wrote."""
    below = (path for place in _TEXT_PLACES for path in (ROOT / place).rglob("*"))
    written = [path for path in below if path.is_file() and (path.suffix in _TEXT_SUFFIXES or not path.suffix)]
    return sorted([*written, *(ROOT / name for name in _TEXT_NAMES if (ROOT / name).is_file())])
