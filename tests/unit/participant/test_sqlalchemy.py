"""What can be said of SQLAlchemy's sessions without a server; the rest is in `integration/`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from participant.errors import ConfigError
from participant.rm.sqlalchemy import SQLAlchemy
from participant.rm.sqlite import SQLite


def test_without_sqlalchemy_the_import_says_what_to_install() -> None:
    lines = ("import sys", "sys.modules['sqlalchemy'] = None", "import participant.rm.sqlalchemy")
    run = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "SQLAlchemy is not installed: pip install 'commitd[sqlalchemy]'" in run.stderr


def test_only_a_server_that_prepares_can_be_below(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="takes a PostgreSQL or a MariaDB"):
        SQLAlchemy(SQLite(tmp_path / "data.db", schema=""))  # type: ignore[arg-type]
