from litestar import Litestar
from litestar.handlers import asgi
from shop import REPLICAS, shop

commitd = asgi("/commitd", is_mount=True, copy_scope=True)(shop.asgi())
app = Litestar([commitd], lifespan=[lambda _: shop.running(replicas=REPLICAS)])
