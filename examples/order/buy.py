"""Alice orders mugs, and pays for them: both or nothing. `python buy.py ORDER MUGS`"""

import asyncio
import sys

from coordinator.client import Aborted, Branch, Client, Committed
from coordinator.errors import OutcomeUnknown

REPLICAS = ["http://127.0.0.1:8001", "http://127.0.0.1:8002", "http://127.0.0.1:8003"]
MUG_CENTS = 500


async def buy(order, mugs):
    branches = [
        Branch("bank", "debit", {"account": "alice", "amount": mugs * MUG_CENTS}),
        Branch("shop", "order", {"name": order, "buyer": "alice", "mugs": mugs}),
    ]
    async with Client(REPLICAS) as client:
        try:
            match await client.commit(branches, deadline_ms=3000):
                case Committed():
                    print("committed")
                case Aborted(reason=reason):
                    print("aborted:", reason)
        except OutcomeUnknown as unknown:
            print("not known yet:", unknown.gid)


asyncio.run(buy(sys.argv[1], int(sys.argv[2])))
