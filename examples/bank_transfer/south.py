import os

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from participant import Participant
from participant.rm.mariadb import MariaDB

SCHEMA = [
    "CREATE TABLE IF NOT EXISTS account (name VARCHAR(64) PRIMARY KEY, cents BIGINT NOT NULL CHECK (cents >= 0))",
    "INSERT IGNORE INTO account VALUES ('smith', 10000)",
]

bank = Participant("south", MariaDB(os.environ["SOUTH_DSN"], schema=SCHEMA))
app = FastAPI(title="South", lifespan=lambda _: bank.running(replicas=os.environ["REPLICAS"].split(",")))
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
    cents = await tx.fetch_value("SELECT cents FROM account WHERE name = %s", (posting.account,))
    if cents is None:
        raise HTTPException(404, f"south has no account {posting.account}")
    if cents + posting.cents < 0:
        raise HTTPException(409, f"{posting.account} has {cents} only")
    await tx.execute("UPDATE account SET cents = cents + %s WHERE name = %s", (posting.cents, posting.account))
    return Balance(account=posting.account, cents=cents + posting.cents)


@bank.view("/v1/accounts")
async def accounts(tx, _query):
    return dict(await tx.fetch_all("SELECT name, cents FROM account"))
