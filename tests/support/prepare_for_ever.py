"""A process that prepares branch after branch and prints each when it was answered, until somebody kills it."""

from __future__ import annotations

import asyncio
import sys

from participant.ids import BranchKey
from participant.resource import Call, ResourceLimits
from participant.wire import BranchState
from tests.support.subjects import SUBJECTS

AT_ONCE = 8


async def prepare_for_ever(kind: str, place: str) -> None:
    """`kind` and `place` as in `SUBJECTS`."""
    subject = SUBJECTS[kind](place)
    manager = subject.make(ResourceLimits())
    await manager.open()

    async def prepare(line: int) -> None:
        number = line
        while True:
            call = Call.of("put", subject.put, {"key": f"row-{number}", "value": number})
            answer = await manager.prepare(BranchKey(f"gid-{number}", "b"), call)
            if answer.state is BranchState.PREPARED:
                print(f"gid-{number}", flush=True)
            number += AT_ONCE

    await asyncio.gather(*(prepare(line) for line in range(AT_ONCE)))


if __name__ == "__main__":
    asyncio.run(prepare_for_ever(sys.argv[1], sys.argv[2]))
