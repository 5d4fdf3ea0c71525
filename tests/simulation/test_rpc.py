"""An answer in pieces comes in order, once, and not beyond what was lost of it."""

from __future__ import annotations

import pytest

from coordinator.simulation.links import Latency, Links
from coordinator.simulation.loop import SimLoop
from coordinator.simulation.rpc import CallTimeout, Flaws, Rpc, Tell

_PIECES = [b"%d" % number for number in range(20)]


@pytest.mark.parametrize("seed", range(20))
def test_pieces_come_in_order_up_to_the_first_that_is_lost(seed: int) -> None:
    """Also if the request runs twice and pieces overtake each other. Red when the caller takes them as they come."""
    loop = SimLoop(seed)
    rpc = Rpc(loop, Links(seed, Latency(mean_s=0.05)), Flaws(loss=0.02, duplicate=0.3, late=0.2, late_mean_s=0.5))
    got: list[bytes] = []
    whole = False

    async def handler(_request: bytes, tell: Tell) -> None:
        for piece in _PIECES:
            tell(piece)

    async def serve() -> None:
        rpc.serve_pieces("count", handler)

    async def ask() -> None:
        nonlocal whole
        try:
            async for piece in rpc.pieces("a", "count", b"", 30):
                got.append(piece)  # noqa: PERF401  # what came before it breaks off counts
            whole = True
        except CallTimeout:
            return

    loop.run_until_complete(loop.process("a").run(serve()))
    loop.run_until_complete(loop.process("b").run(ask()))
    loop.close()
    assert got == _PIECES[: len(got)]
    assert not whole or got == _PIECES
