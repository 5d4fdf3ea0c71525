"""`python -m coordinator` is `commitd`, in this very interpreter."""

from __future__ import annotations

from coordinator.cli.main import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
