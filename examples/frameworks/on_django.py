from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpResponse
from django.urls import path
from shop import REPLICAS, shop
from starlette.applications import Starlette
from starlette.routing import Mount

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"])
urlpatterns = [path("hello", lambda _: HttpResponse("hello"))]

app = Starlette(
    routes=[Mount("/commitd", shop.asgi()), Mount("/", get_asgi_application())],
    lifespan=lambda _: shop.running(replicas=REPLICAS),
)
