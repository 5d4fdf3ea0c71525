"""Throw-away servers: what they leave behind, and what they say when they cannot start."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import pytest

from participant.testing.servers import MariaDB, Nats, Postgres, Redis, Server, ServerFailed, ServerMissing
from participant.testing.servers.server import find_program


def _is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One that every user may pass: a server may have to run as another one."""
    for path in (tmp_path, *tmp_path.parents[:2]):
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
