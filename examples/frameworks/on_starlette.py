from shop import REPLICAS, shop
from starlette.applications import Starlette
from starlette.routing import Mount

app = Starlette(routes=[Mount("/commitd", shop.asgi())], lifespan=lambda _: shop.running(replicas=REPLICAS))
