import asyncio

from trip import trip

from coordinator.client.replay import replayed
from participant import Reject


async def answer(step):
    if step.body.get("night") == "2027-12-24":
        raise Reject("no room is left")
    return "1A" if step.action == "book" else None


async def try_it():
    ran = await replayed(trip, {"passenger": "alice", "nights": ["2027-12-24", "2027-05-01"]}, answer)
    print([step.action for step in ran.steps])
    print(ran.result)


asyncio.run(try_it())
