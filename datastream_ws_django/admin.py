"""The admin: how streams are, live; failed messages, to be handled again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.cache import add_never_cache_headers
from django.utils.html import format_html
from django.utils.safestring import SafeString

from .conf import streams_settings
from .deadletters import retry, storable
from .health import MAX_AGE, rows_as_json
from .models import FailedMessage, StreamStatus

if TYPE_CHECKING:
    StatusAdmin = admin.ModelAdmin[StreamStatus]
    FailedAdmin = admin.ModelAdmin[FailedMessage]
else:
    StatusAdmin = FailedAdmin = admin.ModelAdmin

LONGEST_PAYLOAD = 10_000  # characters shown


@admin.register(StreamStatus)
class StreamStatusAdmin(StatusAdmin):
    """Written by runners, read by people."""

    list_display = (
        *("stream", "host", "pid", "state", "beat_at", "messages_handled", "messages_failed"),
        *("reconnects", "last_message_at", "live"),
    )
    list_filter = ("stream", "state")
    search_fields = ("stream", "host")

    @admin.display(description="live")
    def live(self, row: StreamStatus) -> SafeString:
        url = reverse(f"{self.admin_site.name}:datastream_live", args=[row.stream])
        return format_html('<a href="{}">watch</a>', url)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("live/<path:alias>/", view(self.live_page), name="datastream_live"),
            path("live-data/<path:alias>/", view(self.live_data), name="datastream_live_data"),
            *super().get_urls(),
        ]

    def live_page(self, request: HttpRequest, alias: str) -> HttpResponse:
        """Show one stream, on a page that updates itself."""
        self._refuse_strangers(request, alias)
        site = self.admin_site
        context = {
            **site.each_context(request),
            "title": f"Stream {alias}",
            "alias": alias,
            "opts": self.model._meta,
            "data_url": reverse(f"{site.name}:datastream_live_data", args=[alias]),
            "max_age": MAX_AGE,
        }
        return TemplateResponse(request, "datastream/live.html", context)

    def live_data(self, request: HttpRequest, alias: str) -> HttpResponse:
        """Return the rows that the live page shows."""
        self._refuse_strangers(request, alias)
        rows = StreamStatus.objects.filter(stream=alias).order_by("-beat_at")[:20]
        response = JsonResponse({"now": timezone.now().isoformat(), "runners": rows_as_json(rows)})
        add_never_cache_headers(response)
        return response

    def _refuse_strangers(self, request: HttpRequest, alias: str) -> None:
        if not self.has_view_permission(request):
            raise PermissionDenied
        if alias not in streams_settings and not is_kept(alias):
            raise Http404(f"there is no stream {alias!r}")


def is_kept(alias: str) -> bool:
    """Whether there are rows of a stream; PostgreSQL refuses to look for NUL."""
    return "\0" not in alias and StreamStatus.objects.filter(stream=alias).exists()


@admin.register(FailedMessage)
class FailedMessageAdmin(FailedAdmin):
    """Dead letters."""

    list_display = ("stream", "handler", "error", "failed_at", "attempts")
    list_filter = ("stream", "handler")
    date_hierarchy = "failed_at"
    actions = ("retry",)
    fields = readonly_fields = (
        *("stream", "handler", "error", "failed_at", "attempts", "received_at", "seq"),
        *("connection", "epoch", "shown_payload", "shown_traceback"),
    )

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    @admin.display(description="payload")
    def shown_payload(self, row: FailedMessage) -> SafeString:
        payload = row.payload
        text = payload if isinstance(payload, str) else repr(payload)
        return format_html("<pre>{}</pre>", storable(text[:LONGEST_PAYLOAD]))

    @admin.display(description="traceback")
    def shown_traceback(self, row: FailedMessage) -> SafeString:
        return format_html("<pre>{}</pre>", row.traceback)

    @admin.action(description="Retry: give to the handlers again", permissions=["change"])
    def retry(self, request: HttpRequest, rows: QuerySet[FailedMessage]) -> None:
        outcome = retry(list(rows.order_by("stream", "epoch", "seq", "pk")))
        if outcome.handled:
            self.message_user(request, f"{outcome.handled} handled.", messages.SUCCESS)
        if outcome.failed:
            self.message_user(request, f"{outcome.failed} failed again.", messages.ERROR)
