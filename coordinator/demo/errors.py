"""What can keep the demo from its end.

CoordinatorError
└── DemoError       the demo cannot go on; the text says why and what to do
"""

from __future__ import annotations

from coordinator.errors import CoordinatorError

__all__ = ["DemoError"]


class DemoError(CoordinatorError):
    """The demo cannot go on."""
