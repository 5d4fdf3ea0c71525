import os

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from participant import Participant
from participant.rm.postgres import PostgreSQL

SCHEMA = """
CREATE TABLE IF NOT EXISTS account (name text PRIMARY KEY, cents bigint NOT NULL CHECK (cents >= 0));
INSERT INTO account VALUES ('bob', 10000) ON CONFLICT DO NOTHING;
"""

bank = Participant("north", PostgreSQL(os.environ["NORTH_DSN"], schema=SCHEMA))
app = FastAPI(title="North", lifespan=lambda _: bank.running(replicas=os.environ["REPLICAS"].split(",")))
app.mount("/commitd", bank.asgi())


class Posting(BaseModel):
    account: str
    cents: int  # below 0: taken from the account


class Balance(BaseModel):
    account: str
    cents: int


@app.post("/postings")
@bank.endpoint("post")
async def post(tx, posting: Posting) -> Balance:
    cents = await tx.fetchval("SELECT cents FROM account WHERE name = $1", posting.account)
    if cents is None:
        raise HTTPException(404, f"north has no account {posting.account}")
    if cents + posting.cents < 0:
        raise HTTPException(409, f"{posting.account} has {cents} only")
    await tx.execute("UPDATE account SET cents = cents + $2 WHERE name = $1", posting.account, posting.cents)
    return Balance(account=posting.account, cents=cents + posting.cents)


@bank.view("/v1/accounts")
async def accounts(tx, _query):
    return dict(await tx.fetch("SELECT name, cents FROM account"))
