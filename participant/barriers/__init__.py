"""The barrier of `participant.barrier` around a user's function, one module for each database.

from participant.barrier import Step
from participant.barriers.postgres import PostgresBarrier

step = Step.of(gid, branch, "try", body)
outcome = await barrier.run(connection, step, reserve, body)
"""

from __future__ import annotations

__all__: list[str] = []
