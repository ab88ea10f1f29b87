"""The tasks of the workers."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from celery import shared_task
from django.db import transaction

from datastream_ws.schematic import DataStreamResponse

from .models import CANDLE_SECONDS, Candle, Price


@shared_task(bind=True)
def ingest(self: Any, messages: list[dict[str, Any]]) -> None:
    """
    Store the prices of a batch, and compute their candles.

    Batches can arrive in any order, and twice. A price is identified by its number, and a candle is
    computed from all its prices.
    """
    prices = [price_of(message, self.request.id) for message in messages]
    with transaction.atomic():
        Price.objects.bulk_create(prices, ignore_conflicts=True)
        for product, start in {(price.product, candle_start(price.at)) for price in prices}:
            Candle.draw(product, start)


def price_of(message: dict[str, Any], task: str) -> Price:
    data = DataStreamResponse.from_json(json.loads(message["data"])).data
    return Price(
        sequence=data["sequence"],
        product=data["product"],
        cents=data["cents"],
        at=datetime.fromtimestamp(data["at"], UTC),
        task=task,
    )


def candle_start(at: datetime) -> datetime:
    seconds = at.timestamp()
    return datetime.fromtimestamp(seconds - seconds % CANDLE_SECONDS, UTC)
