"""The shop in the admin. Only suppliers can be edited, because the rest comes from the feed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.http import HttpRequest

from .models import Candle, Flag, Price, Supplier

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin


class ReadOnly(ModelAdmin):
    """An admin page without changes."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Flag)
class FlagAdmin(ReadOnly):
    list_display = ("key", "is_on", "changed_at")


@admin.register(Price)
class PriceAdmin(ReadOnly):
    list_display = ("sequence", "product", "cents", "at", "task")
    list_filter = ("product",)


@admin.register(Candle)
class CandleAdmin(ReadOnly):
    list_display = ("product", "start", "open", "high", "low", "close")
    list_filter = ("product",)
    ordering = ("-start",)


@admin.register(Supplier)
class SupplierAdmin(ModelAdmin):
    """Suppliers. A stream starts, changes or ends within 2 seconds after its row."""

    list_display = ("code", "stock", "heard_at")
    fields = ("code", "token")
