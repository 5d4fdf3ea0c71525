import os
from contextlib import asynccontextmanager
from typing import Annotated

import asyncpg
from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel, Field

from participant import Participant
from participant.rm.postgres import PostgreSQL

DSN = os.environ["SHOP_DSN"]
shop = Participant("shop", PostgreSQL(DSN))


@asynccontextmanager
async def lifespan(app):
    async with asyncpg.create_pool(DSN) as app.state.pool, shop.running(replicas=os.environ["REPLICAS"].split(",")):
        yield


app = FastAPI(title="Shop", lifespan=lifespan)
app.mount("/commitd", shop.asgi())


async def transaction():
    async with app.state.pool.acquire() as connection, connection.transaction():
        yield connection


Transaction = Annotated[asyncpg.Connection, Depends(transaction, scope="function")]


class Wanted(BaseModel):
    item: str
    pieces: int = Field(ge=1, le=1000)


class Left(BaseModel):
    item: str
    pieces: int


@app.post("/reserve")
@shop.endpoint("reserve")
async def reserve(tx, wanted: Wanted) -> Left:
    left = await tx.fetchval("SELECT pieces FROM stock WHERE item = $1 FOR UPDATE", wanted.item)
    if left is None or left < wanted.pieces:
        raise HTTPException(409, f"not enough {wanted.item}: {left or 0} left")
    await tx.execute("UPDATE stock SET pieces = $2 WHERE item = $1", wanted.item, left - wanted.pieces)
    return Left(item=wanted.item, pieces=left - wanted.pieces)


@app.get("/stock")
async def stock(tx: Transaction) -> dict[str, int]:
    return dict(await tx.fetch("SELECT item, pieces FROM stock"))
