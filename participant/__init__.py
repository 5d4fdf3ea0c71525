"""A service's part in distributed transactions.

    from participant import Participant, Reject
    from participant.rm.sqlite import SQLite

The names are looked up when first used: a coordinator imports `participant.wire` and must not load a database for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from participant.errors import ParticipantError, Reject
    from participant.kit import Participant, Serving
    from participant.resource import ResourceLimits

__all__ = ["Participant", "ParticipantError", "Reject", "ResourceLimits", "Serving"]


if not TYPE_CHECKING:  # which takes it for a promise that there is any name

    def __getattr__(name: str) -> Any:
        match name:
            case "Participant" | "Serving":
                return getattr(import_module("participant.kit"), name)
            case "ParticipantError" | "Reject":
                return getattr(import_module("participant.errors"), name)
            case "ResourceLimits":
                return getattr(import_module("participant.resource"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
