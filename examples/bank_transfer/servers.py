"""A PostgreSQL and a MariaDB to throw away: says how to reach them, and keeps them until SIGTERM."""

import asyncio
import signal

import asyncmy

from participant.testing.servers import MariaDB, Postgres


async def serve():
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with Postgres.running() as postgres, MariaDB.running() as mariadb:
        async with asyncmy.connect(host="127.0.0.1", port=mariadb.port, user="root") as connection:
            await connection.query("CREATE DATABASE south")
        print(f"export NORTH_DSN={postgres.dsn} SOUTH_DSN={mariadb.dsn_of('south')}", flush=True)
        await ended.wait()


asyncio.run(serve())
