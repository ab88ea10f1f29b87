"""
A feed of Django Channels on Daphne: ``daphne channels_server:application``.

``GET /publish/N`` stores an event and sends it to the group "prices". Each response is the number
of followers. The variable FEED is the path of a file with the events, which outlive the process.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import django
from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1", "api.example.com"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="of a test",
    INSTALLED_APPS=["channels"],
    CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
)
django.setup()

from channels.generic.websocket import AsyncJsonWebsocketConsumer  # noqa: E402  # settings come first
from channels.layers import get_channel_layer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.http import HttpRequest, JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402

FEED = Path(os.environ["FEED"])
following: set[object] = set()


def events() -> list[dict[str, Any]]:
    return [json.loads(line) for line in FEED.read_text().splitlines()] if FEED.exists() else []


def keep(event: dict[str, Any]) -> None:
    with FEED.open("a") as file:
        file.write(json.dumps(event) + "\n")


class Prices(AsyncJsonWebsocketConsumer):  # type: ignore[misc]  # untyped
    async def connect(self) -> None:
        token = dict(self.scope["headers"]).get(b"authorization", b"").decode()
        print("login", token, flush=True)
        if token == "Token TOKEN":
            await self.accept()
        else:
            await self.close()

    async def disconnect(self, code: int) -> None:
        following.discard(self)

    async def receive_json(self, content: Any, **_: Any) -> None:
        print("follow", content["group"], content["after"], flush=True)
        await self.channel_layer.group_add(content["group"], self.channel_name)
        following.add(self)
        for event in events():
            if event["id"] > content["after"]:
                await self.send_json(event)
        await self.send_json({"type": "following"})

    async def price(self, message: dict[str, Any]) -> None:
        await self.send_json(message["event"])


async def publish(request: HttpRequest, value: int) -> JsonResponse:
    event = {"type": "event", "id": len(events()) + 1, "value": value}
    keep(event)
    await get_channel_layer().group_send("prices", {"type": "price", "event": event})
    return JsonResponse(len(following), safe=False)


async def count(request: HttpRequest) -> JsonResponse:
    return JsonResponse(len(following), safe=False)


urlpatterns = [path("publish/<int:value>", publish), path("", count)]
application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": AllowedHostsOriginValidator(URLRouter([path("ws/prices/", Prices.as_asgi())])),
    }
)
