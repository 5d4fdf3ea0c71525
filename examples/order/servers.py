"""The databases of the example, for as long as this runs: PostgreSQL for the shop, MariaDB for the shipping.

It prints where they are once both are there. What was in them is gone when it ends.
"""

import asyncio
import signal

from participant.testing.servers import MariaDB, Postgres


async def serve():
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Postgres.running() as postgres, MariaDB.running() as mariadb:
        print(f"export SHOP_DSN={postgres.dsn}\nexport SHIPPING_DSN={mariadb.dsn}", flush=True)
        await stop.wait()


asyncio.run(serve())
