"""Throw-away servers: what they leave behind, and what they say when they cannot start."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import asyncmy
import asyncpg
import pytest

from participant.testing.servers import MariaDB, Nats, Postgres, Redis, Server, ServerFailed, ServerMissing
from participant.testing.servers.server import find_program


def _is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One that every user may pass: a server may have to run as another one."""
    ours = (path for path in (tmp_path, *tmp_path.parents) if path.name.startswith(("test_", "popen-", "pytest-")))
    for path in ours:
        path.chmod(0o755)
    return tmp_path


def _left_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def _hear(server: Server, said: bytes, expected: bytes) -> None:
    """Say it in the server's own protocol, which is text. Raises TimeoutError or EOFError if the answer is another."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(said)
        async with asyncio.timeout(10.0):
            await reader.readuntil(expected)
    finally:
        writer.close()


def _asking_nats(subject: str, body: str = "") -> bytes:
    """A request, whose answer comes as JSON in one line."""
    return f"CONNECT {{}}\r\nSUB answers 1\r\nPUB {subject} answers {len(body)}\r\n{body}\r\n".encode()


@pytest.mark.parametrize("kind", [Postgres, MariaDB, Redis, Nats])
async def test_nothing_is_left_of_a_server(kind: type[Server], folder: Path) -> None:
    pids = []

    async def use() -> None:
        async with kind.running(folder) as server:
            assert _left_in(folder) == [server.folder]
            pids.append(server.pid)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await use()
    assert not _is_there(pids[0])
    assert _left_in(folder) == []


async def test_a_killed_server_comes_back_with_its_data() -> None:
    async with Postgres.running() as server:
        connection = await asyncpg.connect(server.dsn)
        await connection.execute("CREATE TABLE kept (x int); INSERT INTO kept VALUES (7)")
        pid, port = server.pid, server.port
        await server.kill()
        assert not _is_there(pid)
        with pytest.raises(ServerFailed, match="it is not running"):
            _ = server.pid
        await server.start()
        assert server.port == port
        again = await asyncpg.connect(server.dsn)
        assert await again.fetchval("SELECT x FROM kept") == 7
        await again.close()
        connection.terminate()


async def test_of_a_killed_server_no_process_is_left_that_keeps_the_next_from_starting() -> None:
    """PostgreSQL's memory is shared until the last of its processes is gone. Seen red without the wait for them."""
    async with Postgres.running() as server:
        for _ in range(3):
            busy = [await asyncpg.connect(server.dsn) for _ in range(20)]
            asking = [asyncio.ensure_future(each.fetch("SELECT pg_sleep(60)")) for each in busy]
            await server.kill()
            assert _children_of(server.folder) == []
            await server.start()
            await asyncio.wait(asking)
            assert all(isinstance(each.exception(), (asyncpg.PostgresError, OSError)) for each in asking)


def _children_of(folder: Path) -> list[int]:
    """The running processes that work in a folder of a server's data."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdecimal() and (entry / "cwd").readlink().is_relative_to(folder):
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize("kind", [Postgres, MariaDB])
async def test_a_server_does_not_outlive_whoever_has_started_it(kind: type[Server], folder: Path) -> None:
    """Not even one that is killed. Seen red without the parent-death signal."""
    script = (
        "import asyncio, sys; from pathlib import Path; from participant.testing import servers\n"
        "async def main():\n"
        f"    async with servers.{kind.__name__}.running(Path(sys.argv[1])) as server:\n"
        "        print(server.pid, flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(main())"
    )
    starter = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, str(folder)), stdout=asyncio.subprocess.PIPE
    )
    assert starter.stdout is not None
    async with asyncio.timeout(60.0):
        pid = int(await starter.stdout.readline())
        assert _is_there(pid)
        starter.kill()
        await starter.wait()
        while _children_of(folder):  # noqa: ASYNC110 - they set no events of ours
            await asyncio.sleep(0.02)


async def test_a_mariadb_leaves_the_temporary_tables_of_another_alone() -> None:
    """One that starts removes those that it finds, and another's start then failed, once in ten times."""
    async with MariaDB.running() as server:
        connection = await asyncmy.connect(host="127.0.0.1", port=server.port, user="root", password="")
        async with connection.cursor() as cursor:
            await cursor.execute("SELECT @@tmpdir")
            assert await cursor.fetchone() == (str(server.folder),)
        connection.close()


async def test_a_mariadb_has_a_database_to_begin_with() -> None:
    async with MariaDB.running() as server:
        assert server.dsn == server.dsn_of("test")
        connection = await asyncmy.connect(host="127.0.0.1", port=server.port, user="root", password="", db="test")
        connection.close()


async def test_a_server_that_has_ended_by_itself_is_found() -> None:
    async def checked(server: Server) -> None:
        async with asyncio.timeout(10.0):
            while True:
                server.check()
                await asyncio.sleep(0.02)

    async with Redis.running() as server:
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(ServerFailed, match="redis-server has ended by itself"):
            await checked(server)


async def test_a_killed_redis_comes_back_with_its_data() -> None:
    async with Redis.running() as server:
        await _hear(server, b"SET kept 7\r\n", b"+OK\r\n")
        await server.kill()
        await server.start()
        await _hear(server, b"GET kept\r\n", b"$1\r\n7\r\n")


async def test_a_killed_nats_comes_back_with_its_streams() -> None:
    async with Nats.running() as server:
        stream = _asking_nats("$JS.API.STREAM.CREATE.KEPT", '{"name": "KEPT", "subjects": ["kept"]}')
        await _hear(server, stream, b'"did_create":true')
        await server.kill()
        await server.start()
        await _hear(server, _asking_nats("$JS.API.STREAM.INFO.KEPT"), b'"name":"KEPT"')


def test_a_killed_server_leaves_no_shared_memory(postgres: Postgres) -> None:
    """Goal: thousands of kills do not fill /dev/shm, where such a piece outlives the server.

    Seen red with the server's own choice of where to put it.
    """
    assert "/dev/shm/" not in Path(f"/proc/{postgres.pid}/maps").read_text(encoding="utf-8")


async def test_another_installation_is_run_by_the_folder_of_its_programs(postgres_16: Postgres) -> None:
    connection = await asyncpg.connect(postgres_16.dsn)
    try:
        assert str(await connection.fetchval("SHOW server_version")).startswith("16.")
    finally:
        await connection.close()


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Postgres, "unrecognized configuration"),
        (MariaDB, "unknown variable"),
        (Redis, "Bad directive or wrong number of arguments"),
    ],
)
async def test_a_server_that_cannot_start_says_why(kind: type[Server], said: str) -> None:
    with pytest.raises(ServerFailed, match=f"(?s)has ended by itself.*{said}"):
        async with kind.running(settings={"no-such-setting": "1"}):
            pass


def test_what_is_not_installed_is_said_with_its_package() -> None:
    with pytest.raises(ServerMissing, match="no-such-program is not installed: apt-get install some-package"):
        find_program("no-such-program", "some-package")
    with pytest.raises(ServerMissing, match="PostgreSQL 7 is not installed: apt-get install postgresql-7"):
        Postgres(Path("/nowhere"), 1, version="7")
    with pytest.raises(ServerMissing, match="there is no PostgreSQL in /nowhere/bin"):
        Postgres(Path("/nowhere"), 1, programs=Path("/nowhere/bin"))


async def test_a_server_that_is_given_up_while_it_starts_leaves_nothing(folder: Path) -> None:
    async def run() -> None:
        async with Postgres.running(folder):
            raise AssertionError("it was given up")

    starting = asyncio.ensure_future(run())
    await asyncio.sleep(0.1)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert _left_in(folder) == []
