"""What the shop does with its streams; found by Django as ``admin.py`` is."""

from __future__ import annotations

from typing import Any

from django.dispatch import receiver

from datastream_ws import DisconnectEvent, GapEvent, Message
from datastream_ws.celery import forward
from datastream_ws.schematic import DataStreamRequest, DataStreamResponse, EntityType
from datastream_ws_django import Stream, datastreams
from datastream_ws_django.signals import stream_disconnected

from .models import Event, Flag, Price

flags, prices = datastreams["flags"], datastreams["prices"]

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
    tell("prices", Event.Kind.RESUMED, f"asked for what follows price {after}")


# --- what befalls both ---


@receiver(stream_disconnected)
def lost(sender: Stream, *, stream: Stream, event: DisconnectEvent, **_: Any) -> None:
    if event.will_retry:
        tell(stream.alias, Event.Kind.LOST, str(event.error))


@flags.on_gap
def flags_are_back(event: GapEvent) -> None:
    back("flags", event)


@prices.on_gap
def prices_are_back(event: GapEvent) -> None:
    back("prices", event)


def back(alias: str, event: GapEvent) -> None:
    text = f"after {event.seconds:.1f} s without a connection"
    tell(alias, Event.Kind.BACK, text, event.seconds)


def tell(alias: str, kind: Event.Kind, text: str, seconds: float | None = None) -> None:
    Event.objects.create(stream=alias, kind=kind, text=text, seconds=seconds)
