import sys

from aiohttp import web
from shop import REPLICAS, shop

app = web.Application()
app.add_subapp("/commitd", shop.aiohttp(replicas=REPLICAS))

if __name__ == "__main__":
    web.run_app(app, host=sys.argv[1], port=int(sys.argv[2]), print=None)
