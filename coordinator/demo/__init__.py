"""The demo: coordinators and banks as real processes, transfers between the banks, faults, and an audit."""

from __future__ import annotations

__all__: list[str] = []
