"""For whoever receives notices: what came is one of ours, or nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping

from coordinator.webhooks import TOLERANCE_S, NoticeView, verified

__all__ = ["verify"]


def verify(headers: Mapping[str, str], body: bytes, *secrets: str, tolerance_s: float = TOLERANCE_S) -> NoticeView:
    """The notice in a request, of which `body` is the bytes as they came. While secrets change, several are good.

    It may come more than once, each time under the same `webhook-id`. Raises: Unverified, to which 400 is the answer;
    ValueError for a secret that is none.
    """
    return verified(headers, body, secrets, now_s=time.time_ns() / 1e9, tolerance_s=tolerance_s)
