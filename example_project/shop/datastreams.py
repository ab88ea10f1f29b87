"""The handlers of the streams. The package imports this module, as Django does ``admin.py``."""

from __future__ import annotations

from typing import Any

from django.utils import timezone

from datastream_ws import Message
from datastream_ws.celery import forward
from datastream_ws.schematic import DataStreamRequest, DataStreamResponse, EntityType
from datastream_ws_django import datastreams

from . import partner
from .models import Flag, Price, Supplier

flags, prices = datastreams["flags"], datastreams["prices"]
suppliers = datastreams["suppliers"]  # a fleet with a stream for each row

PRICE = "shop.Price"

# --- flags, as rows ---


@flags.on_ready
def subscribe() -> None:
    """Request all flags on every connection, which also closes a gap."""
    flags.send(DataStreamRequest(EntityType.FLAGS).to_json())


@flags.on_message(EntityType.FLAGS)
def all_flags(message: Message) -> None:
    found = DataStreamResponse.from_json(message.json()).data
    for flag in found:
        keep(flag)
    Flag.objects.exclude(key__in=[flag["key"] for flag in found]).delete()


@flags.on_message(EntityType.FLAG)
def one_flag(message: Message) -> None:
    keep(DataStreamResponse.from_json(message.json()).data)


@flags.on_message(EntityType.FLAG)
def announce(message: Message) -> None:
    """
    Notify the shop's partner, whose system fails from time to time.

    The admin shows the message as failed. A retry passes it only to this handler.
    """
    partner.announce(DataStreamResponse.from_json(message.json()).data["key"])


def keep(flag: dict[str, Any]) -> None:
    known, is_new = Flag.objects.get_or_create(key=flag["key"])
    if is_new or known.is_on != flag["default_value"]:
        known.is_on = flag["default_value"]
        known.save()


# --- prices, as tasks of up to fifty messages ---

forward(prices, "example_project.shop.tasks.ingest", route=PRICE, batch=(50, 0.2))


@prices.on_ready
def resume() -> None:
    """
    Request the prices after the last one that is stored without a gap.

    Prices that still wait in tasks are sent again, and stored once.
    """
    after = Price.last_complete()
    prices.send({"data": {"action": "start", "entity_type": PRICE, "keys": {"after": str(after)}}})


# --- suppliers, each with its own stream ---


@suppliers.on_message("stock")
def stock(message: Message) -> None:
    told = {"stock": message.json()["count"], "heard_at": timezone.now()}
    Supplier.objects.filter(pk=message.key).update(**told)
