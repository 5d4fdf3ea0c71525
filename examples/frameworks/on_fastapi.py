from fastapi import FastAPI
from shop import REPLICAS, shop

app = FastAPI(lifespan=lambda _: shop.running(replicas=REPLICAS))
app.mount("/commitd", shop.asgi())
