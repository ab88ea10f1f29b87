"""What the shop does with its streams; found by Django as ``admin.py`` is."""

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
suppliers = datastreams["suppliers"]  # a fleet: one stream for each row

PRICE = "shop.Price"

# --- flags: kept up to date as rows ---


@flags.on_ready
def subscribe() -> None:
    """On every connection; the feed answers with all flags, so that a gap is made good."""
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
    Tell the shop's partner, whose system fails now and then.

    The admin shows such a message as failed; Retry passes it to this handler again, and only to it.
    """
    partner.announce(DataStreamResponse.from_json(message.json()).data["key"])


def keep(flag: dict[str, Any]) -> None:
    known, is_new = Flag.objects.get_or_create(key=flag["key"])
    if is_new or known.is_on != flag["default_value"]:
        known.is_on = flag["default_value"]
        known.save()


# --- prices: handed on to tasks, up to fifty at a time ---

forward(prices, "example_project.shop.tasks.ingest", route=PRICE, batch=(50, 0.2))


@prices.on_ready
def resume() -> None:
    """
    Ask for what follows the last price that is surely stored.

    What is still on its way to a task is sent a second time, and stored once.
    """
    after = Price.last_complete()
    prices.send({"data": {"action": "start", "entity_type": PRICE, "keys": {"after": str(after)}}})


# --- suppliers: each tells its stock over a stream of its own ---


@suppliers.on_message("stock")
def stock(message: Message) -> None:
    told = {"stock": message.json()["count"], "heard_at": timezone.now()}
    Supplier.objects.filter(pk=message.key).update(**told)
