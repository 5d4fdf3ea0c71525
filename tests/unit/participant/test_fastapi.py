"""An endpoint of FastAPI works alone as ever, or in the branch that a request names; FastAPI does the rest."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from pydantic import BaseModel, Field

from coordinator.simulation.disk import SimDisk
from participant import Participant, Reject, ResourceLimits
from participant.errors import ConfigError
from participant.ids import BranchKey
from participant.resource import ResourceManager
from participant.rm.memory import Memory
from participant.rm.sqlite import SQLite
from participant.wire import BranchState, Operation, Verb

if TYPE_CHECKING:  # as in a service: FastAPI need not know it
    from participant.rm.sqlite import Transaction

SCHEMA = """
CREATE TABLE IF NOT EXISTS accounts (account TEXT NOT NULL PRIMARY KEY, balance INTEGER NOT NULL);
INSERT OR IGNORE INTO accounts VALUES ('bob', 100);
"""
KEY = BranchKey("g", "bank")


class Debit(BaseModel):
    account: str
    amount: Annotated[int, Field(gt=0)]


class Balance(BaseModel):
    balance: int = Field(alias="Balance")


async def injected(request: Request) -> str:
    request.app.state.injected += 1
    return "olivia"


class Scene:
    """A service with a bank. `runs` counts how often a function has begun."""

    def __init__(self, resource: ResourceManager) -> None:
        self.bank = Participant("bank", resource)
        self.app = FastAPI()
        self.runs = 0
        self.app.state.injected = 0

        @self.app.post("/debit", status_code=201)
        @self.bank.endpoint("debit")
        async def debit(tx: Transaction, body: Debit) -> Balance:
            self.runs += 1
            balance = await tx.fetch_value("SELECT balance FROM accounts WHERE account = ?", (body.account,))
            if balance is None:
                raise Reject(f"unknown account {body.account!r}")
            left = balance - body.amount
            await tx.execute("UPDATE accounts SET balance = ? WHERE account = ?", (left, body.account))
            if left < 0:
                raise HTTPException(409, f"only {balance} left", headers={"X-Left": str(balance)})
            return Balance(Balance=left)

        @self.app.put("/accounts/{account}")
        @self.bank.endpoint()
        async def put(
            tx: Any,
            account: str,
            request: Request,
            response: Response,
            who: Annotated[str, Depends(injected)],
            balance: int = 0,
        ) -> dict[str, Any]:
            self.runs += 1
            response.headers["X-Who"] = who
            await tx.execute("INSERT OR REPLACE INTO accounts VALUES (?, ?)", (account, balance))
            return {"account": account, "balance": balance, "asked": request.url.path}

        @self.app.post("/divide")
        @self.bank.endpoint()
        async def divide(tx: Any) -> float:
            await tx.execute("DELETE FROM accounts")
            return 1 / 0

    async def balances(self) -> Any:
        transport = httpx.ASGITransport(self.bank.asgi())
        async with httpx.AsyncClient(transport=transport, base_url="http://bank") as client:
            return (await client.get("/v1/accounts")).json()

    async def perform(self, verb: Verb, **more: Any) -> BranchState:
        answer = await self.bank._current().service.perform(Operation(verb, KEY, **more))
        return answer.state

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        async with (
            self.bank.running(),
            httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://bank") as client,
        ):
            yield client


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return made(tmp_path)


def made(place: Path, limits: ResourceLimits | None = None) -> Scene:
    scene = Scene(SQLite(place / "bank.db", schema=SCHEMA, limits=limits))

    @scene.bank.view("/v1/accounts")
    async def accounts(tx: Any, _: Any) -> Any:
        return dict(await tx.execute("SELECT account, balance FROM accounts"))

    return scene


def work(seq: int, gid: str = "g") -> dict[str, str]:
    return {"Commitd-Work": f"{gid};branch=bank;seq={seq}"}


async def test_without_a_transaction_the_work_is_committed(scene: Scene) -> None:
    """Goal: with the status, the model and the headers that FastAPI gives it."""
    async with scene.client() as client:
        done = await client.post("/debit", json={"account": "bob", "amount": 30})
        assert (done.status_code, done.json()) == (201, {"Balance": 70})
        assert "Commitd-Enlist" not in done.headers
        assert await scene.balances() == {"bob": 70}


async def test_what_raises_is_rolled_back_and_told_as_ever(scene: Scene) -> None:
    async with scene.client() as client:
        refused = await client.post("/debit", json={"account": "bob", "amount": 101})
        assert (refused.status_code, refused.json()) == (409, {"detail": "only 100 left"})
        assert refused.headers["X-Left"] == "100"
        rejected = await client.post("/debit", json={"account": "eve", "amount": 1})
        assert (rejected.status_code, rejected.json()["detail"]) == (422, "unknown account 'eve'")
        with pytest.raises(ZeroDivisionError):
            await client.post("/divide")
        assert (await client.post("/debit", json={"account": "bob", "amount": 0})).status_code == 422
        assert await scene.balances() == {"bob": 100}


async def test_all_that_fastapi_injects_is_there(scene: Scene) -> None:
    """Goal: path, query, dependencies, and the request and response that the function has itself."""
    async with scene.client() as client:
        for headers in ({}, work(0)):
            done = await client.put("/accounts/eve?balance=5", headers=headers)
            assert done.json() == {"account": "eve", "balance": 5, "asked": "/accounts/eve"}
            assert done.headers["X-Who"] == "olivia"
        assert done.headers["Commitd-Enlist"] == "bank;branch=bank"
    paths = scene.app.openapi()["paths"]
    assert [each["name"] for each in paths["/accounts/{account}"]["put"]["parameters"]] == ["account", "balance"]
    assert "parameters" not in paths["/debit"]["post"]


async def test_work_joins_the_branch_that_the_request_names(scene: Scene) -> None:
    """Goal: works add up, nobody else sees them, and they are prepared as a whole."""
    async with scene.client() as client:
        for seq, left in enumerate((90, 70)):
            done = await client.post("/debit", json={"account": "bob", "amount": (10, 20)[seq]}, headers=work(seq))
            assert (done.status_code, done.json()) == (201, {"Balance": left})
            assert done.headers["Commitd-Enlist"] == "bank;branch=bank"
        assert await scene.balances() == {"bob": 100}
        assert await scene.perform(Verb.PREPARE, works=2) is BranchState.PREPARED
        assert await scene.perform(Verb.COMMIT) is BranchState.COMMITTED
        assert await scene.balances() == {"bob": 70}


async def test_a_repeat_of_a_work_is_done_once_and_answered_as_before(scene: Scene) -> None:
    """Goal: a lost response is asked for again. Seen red with a digest of chance: it was a conflict."""
    async with scene.client() as client:
        for _ in range(2):
            done = await client.post("/debit", json={"account": "bob", "amount": 10}, headers=work(0))
            assert (done.status_code, done.json()) == (201, {"Balance": 90})
        assert scene.runs == 1
        other = await client.post("/debit", json={"account": "bob", "amount": 11}, headers=work(0))
        assert (other.status_code, other.json()["type"]) == (409, "urn:commitd:participant:branch-conflict")
        elsewhere = await client.put("/accounts/bob", headers=work(0))
        assert elsewhere.status_code == 409


async def test_a_work_that_is_refused_aborts_its_branch(scene: Scene) -> None:
    async with scene.client() as client:
        refused = await client.post("/debit", json={"account": "bob", "amount": 101}, headers=work(0))
        assert (refused.status_code, refused.json()) == (409, {"detail": "only 100 left"})
        assert await scene.perform(Verb.OUTCOME) is BranchState.ABORTED
        late = await client.post("/debit", json={"account": "bob", "amount": 1}, headers=work(0))
        assert (late.status_code, late.json()["detail"]) == (409, "only 100 left")
        hole = await client.post("/debit", json={"account": "bob", "amount": 1}, headers=work(1, "h"))
        assert (hole.status_code, "were lost" in hole.json()["detail"]) == (409, True)


@pytest.mark.parametrize(
    "header",
    ["", "g", "g;branch=bank", "g h;branch=bank;seq=0", "g;branch=bank;seq=-1", "g;branch=bank;seq=" + "9" * 99],
)
async def test_a_header_that_is_not_understood_is_a_problem(scene: Scene, header: str) -> None:
    """Goal: nothing is done then, above all not outside of the transaction."""
    async with scene.client() as client:
        said = await client.post("/debit", json={"account": "bob", "amount": 10}, headers={"Commitd-Work": header})
        assert (said.status_code, said.headers["Content-Type"]) == (400, "application/problem+json")
        assert said.json()["field"].startswith("Commitd-Work")
        assert scene.runs == 0


async def test_a_function_runs_again_and_what_was_injected_does_not(scene: Scene) -> None:
    """Goal: it waits for a row of another branch, as an action does, and sees what that has left."""
    async with scene.client() as client:
        assert await scene.perform(Verb.PREPARE, action="debit", body={"account": "bob", "amount": 1}) is (
            BranchState.PREPARED
        )
        waiting = asyncio.create_task(client.put("/accounts/bob?balance=7"))
        while not (await scene.bank._current().service.status()).waiting:
            pass
        assert await scene.perform(Verb.COMMIT) is BranchState.COMMITTED
        assert (await waiting).json()["balance"] == 7
        assert (scene.runs, scene.app.state.injected) == (3, 1)
        assert await scene.balances() == {"bob": 7}


async def test_a_row_that_stays_locked_is_a_conflict(tmp_path: Path) -> None:
    scene = made(tmp_path, ResourceLimits(lock_wait_s=0.05))
    async with scene.client() as client:
        await scene.perform(Verb.PREPARE, action="debit", body={"account": "bob", "amount": 1})
        said = await client.post("/debit", json={"account": "bob", "amount": 1})
        assert (said.status_code, said.json()["type"]) == (409, "urn:commitd:participant:refused")
        assert said.json()["detail"].startswith("conflict: ")


async def test_who_is_too_busy_asks_to_come_again(tmp_path: Path) -> None:
    scene = made(tmp_path, ResourceLimits(branches_max=1))
    async with scene.client() as client:
        assert (await client.put("/accounts/eve", headers=work(0))).status_code == 200
        for headers in (work(0, "h"), {}):
            said = await client.put("/accounts/ann", headers=headers)
            assert (said.status_code, said.headers["Retry-After"]) == (503, "1")


async def test_a_disk_that_fails_leaves_it_unknown() -> None:
    """Goal: no Retry-After, which would have the work done twice."""
    disk = SimDisk()
    bank = Participant("bank", Memory(disk))
    app = FastAPI()

    @app.post("/put")
    @bank.endpoint()
    async def put(tx: Any) -> None:
        await tx.put("k", 1)

    async with (
        bank.running(),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://bank") as client,
    ):
        assert (await client.post("/put")).status_code == 200
        disk.fail_next_sync()
        said = await client.post("/put")
    assert (said.status_code, said.json()["type"]) == (500, "urn:commitd:participant:unknown")
    assert "Retry-After" not in said.headers


async def test_before_the_start_and_after_the_end_it_says_that_it_does_not_run(scene: Scene) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(scene.app), base_url="http://bank") as client:
        for _ in range(2):
            said = await client.post("/debit", json={"account": "bob", "amount": 1})
            assert (said.status_code, said.json()["type"]) == (503, "urn:commitd:participant:not-running")
            async with scene.bank.running():
                with pytest.raises(ConfigError, match="bank runs already"):
                    await scene.bank.running().__aenter__()


async def test_a_result_that_is_no_value_is_a_defect_in_a_transaction_only(scene: Scene) -> None:
    """Goal: alone, an endpoint may return what FastAPI takes; in a branch it must be the same for a repeat."""

    @scene.app.post("/raw")
    @scene.bank.endpoint()
    async def raw(tx: Any) -> Response:
        return Response("raw")

    async with scene.client() as client:
        assert (await client.post("/raw")).text == "raw"
        said = await client.post("/raw", headers=work(0))
        assert (said.status_code, "must return a JSON value" in said.json()["detail"]) == (500, True)
        assert await scene.perform(Verb.OUTCOME) is BranchState.ABORTED


async def test_a_body_that_was_read_already_cannot_be_repeated(scene: Scene) -> None:
    async def consumed(request: Request) -> None:
        async for _ in request.stream():
            pass

    @scene.app.post("/form", dependencies=[Depends(consumed)])
    @scene.bank.endpoint()
    async def form(tx: Any) -> None: ...

    async with scene.client() as client:
        assert (await client.post("/form", content=b"a=1")).status_code == 200
        assert (await client.post("/form", content=b"a=1", headers=work(0))).status_code == 415


async def test_what_cannot_work_is_refused_when_it_is_written(scene: Scene) -> None:
    def not_async(tx: Any) -> None: ...

    async def no_tx(body: Debit) -> None: ...

    async def two(tx: Any, body: Debit, who: str) -> None: ...

    async def plain(tx: Any, body: int) -> None: ...

    for function in (not_async, no_tx):
        with pytest.raises(ConfigError, match="must be an `async def` whose first parameter is tx"):
            scene.bank.endpoint()(function)

    async def unknown(tx: Any, body: Local) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(ConfigError, match="its types must be known to FastAPI, in its module: name 'Local'"):
        scene.bank.endpoint()(unknown)
    for function in (two, plain):
        with pytest.raises(ConfigError, match="takes tx and one body, a pydantic model"):
            scene.bank.endpoint("other")(function)
    with pytest.raises(ConfigError, match="must be new"):
        scene.bank.endpoint("debit")(plain)


def test_without_fastapi_it_is_said_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['fastapi'] = None; from participant import Participant\n"
        "from participant.errors import ConfigError; from participant.rm.memory import Memory\n"
        "try: Participant('bank', Memory(sys.argv[1])).endpoint()\n"
        "except ConfigError as error: sys.exit('pip install fastapi' not in str(error))\n"
        "sys.exit(2)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=Path(__file__).parents[3])
