"""What a command costs before it does anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_OTHERS = ("coordinator.demo", "coordinator.failures", "coordinator.simulation", "participant.testing")


def test_a_replica_does_not_wait_for_what_other_commands_need() -> None:
    """Seen red with a tree that imports all of its commands."""
    code = f"""
import sys
from coordinator.cli.main import main
sys.argv = ["commitd", "serve", "--help"]
try:
    main()
except SystemExit:
    sys.exit(", ".join(name for name in sys.modules if name.startswith({_OTHERS!r})))
"""
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, capture_output=True, check=False, text=True, cwd=Path(__file__).parents[4], timeout=60)
    assert "--node" in done.stdout
    assert done.stderr.strip() == ""
