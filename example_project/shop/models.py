"""The tables of flags, prices, candles and suppliers."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import models
from django.db.models import Exists, F, Min, OuterRef

CANDLE_SECONDS = 2


class Flag(models.Model):
    """A feature flag."""

    key = models.CharField(max_length=100, unique=True)
    is_on = models.BooleanField("on", default=False)
    changed_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ("key",)

    def __str__(self) -> str:
        return f"{self.key} {'on' if self.is_on else 'off'}"


class Price(models.Model):
    """
    A price of the feed.

    Attributes:
        sequence: The number of the price, counted from 1 without gaps.
        task: The id of the task that stored it.

    """

    sequence = models.BigIntegerField(primary_key=True)
    product = models.CharField(max_length=100)
    cents = models.PositiveIntegerField()
    at = models.DateTimeField()
    task = models.UUIDField()

    class Meta:
        ordering = ("-sequence",)
        indexes = (models.Index(fields=("product", "at"), name="shop_price_of_a_time"),)

    def __str__(self) -> str:
        return f"{self.product} {self.cents / 100:.2f}"

    @classmethod
    def last_complete(cls) -> int:
        """Return the highest number up to which no price is missing."""
        if not cls.objects.filter(sequence=1).exists():
            return 0
        next_one = cls.objects.filter(sequence=OuterRef("number") + 1)
        ends = cls.objects.annotate(number=F("sequence")).filter(~Exists(next_one))
        number: int = ends.aggregate(first=Min("sequence"))["first"]
        return number


class Candle(models.Model):
    """The first, highest, lowest and last price of a product in CANDLE_SECONDS."""

    product = models.CharField(max_length=100)
    start = models.DateTimeField(db_index=True)
    open = models.PositiveIntegerField()
    high = models.PositiveIntegerField()
    low = models.PositiveIntegerField()
    close = models.PositiveIntegerField()

    class Meta:
        ordering = ("start",)
        constraints = (models.UniqueConstraint(fields=("product", "start"), name="one_candle"),)

    def __str__(self) -> str:
        return f"{self.product} {self.start:%H:%M:%S}"

    @classmethod
    def draw(cls, product: str, start: datetime) -> None:
        """Compute a candle from all its prices, which can arrive in any order."""
        end = start + timedelta(seconds=CANDLE_SECONDS)
        prices = Price.objects.filter(product=product, at__gte=start, at__lt=end)
        cents = list(prices.order_by("sequence").values_list("cents", flat=True))
        shape = {"open": cents[0], "high": max(cents), "low": min(cents), "close": cents[-1]}
        cls.objects.update_or_create(product=product, start=start, defaults=shape)


class Supplier(models.Model):
    """
    A supplier, whose stock comes over its own stream.

    Attributes:
        code: The end of the URL.
        token: The credential in the header. A new token reconnects only this stream.

    """

    code = models.CharField(max_length=20, unique=True)
    token = models.CharField(max_length=100)
    stock = models.PositiveIntegerField(default=0)
    heard_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("code",)

    def __str__(self) -> str:
        return f"{self.code}"
