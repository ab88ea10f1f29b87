"""The admin pages: the state of streams, commands for them, and failed messages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.core.exceptions import BadRequest, PermissionDenied
from django.db import connections, router, transaction
from django.db.models import Count, Max, Min, Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.cache import add_never_cache_headers
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.views.decorators.http import require_POST

from .bulk import Work, found
from .claims import is_claimed
from .conf import streams_settings
from .control import KEY_VERBS, VERBS, ask, standing_pauses
from .db import non_atomic
from .deadletters import Retried, retry, storable
from .fleetpage import fleet_view
from .health import rows_as_json
from .models import FailedMessage, StreamEvent, StreamStatus
from .overview import RANGES, cards, history, running
from .templatetags.datastream import aware, moment

if TYPE_CHECKING:
    StatusAdmin = admin.ModelAdmin[StreamStatus]
    FailedAdmin = admin.ModelAdmin[FailedMessage]
else:
    StatusAdmin = FailedAdmin = admin.ModelAdmin

LONGEST_PAYLOAD = 10_000  # characters shown
MOST_EVENTS = 100
LONGEST_SEARCH = 200  # characters
MOST_GROUPS = 50
MAY_CONTROL = "datastream.control_streamstatus"
MEDIA = forms.Media(css={"all": ["datastream/live.css"]}, js=["datastream/live.js"])
# Confirmed by the user before a command is stored.
QUESTIONS = {
    "pause": "Close the connection and stay offline until the stream is resumed?",
    "resume": "Connect again?",
    "reconnect": "Drop the connection and connect again?",
}


class Page:
    """The parts that the pages of both models share."""

    admin_site: admin.AdminSite  # both set by ModelAdmin
    model: Any

    class Media:
        css = {"all": ("datastream/live.css",)}  # noqa: RUF012 - as Django writes it
        js = ("datastream/live.js",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def _url(self, name: str, *args: object) -> str:
        return reverse(f"{self.admin_site.name}:datastream_{name}", args=args)

    def _page(self, request: HttpRequest, template: str, title: str, **more: Any) -> HttpResponse:
        context = {**self.admin_site.each_context(request), "title": title, "media": MEDIA, **more}
        context["opts"] = self.model._meta  # for themes of the admin
        return TemplateResponse(request, f"datastream/{template}.html", context)


class ProcessFilter(admin.SimpleListFilter):
    """Show only running processes by default."""

    title = "process"
    parameter_name = "process"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("ended", "Ended, or no longer reporting"), ("all", "All")]

    def choices(self, changelist: Any) -> Iterator[Any]:
        name = self.parameter_name
        for value, title in ((None, "Running"), *self.lookup_choices):
            query = changelist.get_query_string({name: value} if value else {}, [name])
            yield {"selected": self.value() == value, "query_string": query, "display": title}

    def queryset(
        self, request: HttpRequest, queryset: QuerySet[StreamStatus]
    ) -> QuerySet[StreamStatus]:
        wanted = {"all": Q(), "ended": ~running()}
        return queryset.filter(wanted.get(self.value() or "", running()))


@admin.register(StreamStatus)
class StreamStatusAdmin(Page, StatusAdmin):
    """The overview of streams, a page for each stream, and its commands."""

    list_display = (
        *("stream", "host", "pid", "state", "heartbeat", "messages_handled", "messages_failed"),
        *("reconnects", "live"),
    )
    list_filter = (ProcessFilter, "stream", "state")
    search_fields = ("stream", "host")

    @admin.display(description="live")
    def live(self, row: StreamStatus) -> SafeString:
        return format_html('<a href="{}">Show</a>', self._url("live", row.stream))

    @admin.display(description="last heartbeat", ordering="beat_at")
    def heartbeat(self, row: StreamStatus) -> SafeString | str:
        return moment(row.beat_at)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_queryset(self, request: HttpRequest) -> QuerySet[StreamStatus]:
        """Leave out the streams of a fleet, because the page of the fleet lists them."""
        return super().get_queryset(request).filter(fleet="")

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("processes/", view(self.processes), name="datastream_processes"),
            path("live/<path:alias>/", view(self.live_page), name="datastream_live"),
            path("live-data/<path:alias>/", view(self.live_data), name="datastream_live_data"),
            path("ask/<str:verb>/<path:alias>/", view(self.control), name="datastream_control"),
            *super().get_urls(),
        ]

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """Show all streams. The list of processes has its own page."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        return self._page(request, "overview", "Streams", cards=cards(known_aliases()))

    def processes(self, request: HttpRequest) -> HttpResponse:
        """Show the searchable list of all processes."""
        return super().changelist_view(request, {"title": "Processes"})

    def live_page(self, request: HttpRequest, alias: str) -> HttpResponse:
        """Show one stream, on a page that updates itself."""
        self._refuse_strangers(request, alias)
        chosen = chosen_range(request)
        [card] = cards([alias])
        parent = fleet_of(alias)
        fleet = None
        if card.counts is not None:
            fleet = fleet_view(alias, card.living, request.GET.get("q", "")[:LONGEST_SEARCH])
        return self._page(
            request,
            "live",
            f"Stream {alias}",
            card=card,
            alias=alias,
            parent=parent,
            fleet=fleet,
            pause=standing_pauses([alias]).get(alias),
            verbs=verbs_for(request, parent),
            events=events_of(alias, card.living),
            range=chosen,
            ranges=RANGES,
            data_url=self._url("live_data", alias),
        )

    def live_data(self, request: HttpRequest, alias: str) -> HttpResponse:
        """Return the data of the live page as JSON: the chart and the newest rows of processes."""
        self._refuse_strangers(request, alias)
        rows = StreamStatus.objects.filter(stream=alias).order_by("-beat_at")[:20]
        response = JsonResponse(
            {
                "now": timezone.now().isoformat(),
                "runners": rows_as_json(rows),
                "history": history(alias, chosen_range(request)),
            }
        )
        add_never_cache_headers(response)
        return response

    def control(self, request: HttpRequest, verb: str, alias: str) -> HttpResponse:
        """Ask for confirmation of a command, and store the command once it is confirmed."""
        self._refuse_strangers(request, alias)
        if not may_control(request):
            raise PermissionDenied
        if verb not in (KEY_VERBS if fleet_of(alias) else VERBS):
            raise Http404(f"unknown command {verb!r}")
        if request.method == "POST":
            ask(alias, verb, request.user.get_username())
            self._tell_who_obeys(request, verb, alias)
            return HttpResponseRedirect(self._url("live", alias))
        title, question = f"{verb.capitalize()} stream {alias}", QUESTIONS[verb]
        return self._page(request, "control", title, verb=verb, alias=alias, question=question)

    def _tell_who_obeys(self, request: HttpRequest, verb: str, alias: str) -> None:
        if cards([alias])[0].living:
            text = (
                f"Requested to {verb} {alias}. The runner carries it out with its next heartbeat."
            )
            self.message_user(request, text, messages.SUCCESS)
            return
        text = f"Requested to {verb} {alias}, but no process runs it now."
        if verb == "pause":
            text += " It will be paused when a process starts it."
        self.message_user(request, text, messages.WARNING)

    def _refuse_strangers(self, request: HttpRequest, alias: str) -> None:
        if not self.has_view_permission(request):
            raise PermissionDenied
        if alias not in streams_settings and not is_kept(alias):
            raise Http404(f"unknown stream {alias!r}")


def may_control(request: HttpRequest) -> bool:
    user: Any = request.user
    return bool(user.has_perm(MAY_CONTROL))


def verbs_for(request: HttpRequest, parent: str | None) -> Sequence[str]:
    if not may_control(request):
        return ()
    return KEY_VERBS if parent else VERBS


def fleet_of(alias: str) -> str | None:
    """Return the name of the fleet that has this stream. ``None`` means a stream of its own."""
    if alias in streams_settings or "\0" in alias:
        return None
    rows = StreamStatus.objects.filter(stream=alias).exclude(fleet="")
    return rows.values_list("fleet", flat=True).first()


def events_of(alias: str, living: Sequence[StreamStatus]) -> list[StreamEvent]:
    """Return the newest events. The status rows of a fleet's stream contain its events."""
    found = list(StreamEvent.objects.filter(stream=alias)[:MOST_EVENTS])
    for row in living:
        process = f"{row.host}, process {row.pid}"  # as in the rows of other events
        found += [
            StreamEvent(at=datetime.fromtimestamp(at, UTC), kind=kind, text=text, process=process)
            for at, kind, text in row.events
        ]
    return sorted(found, key=lambda event: aware(event.at), reverse=True)[:MOST_EVENTS]


def chosen_range(request: HttpRequest) -> str:
    name = request.GET.get("range", "")
    return name if name in RANGES else "1h"


def known_aliases() -> list[str]:
    """Return the configured streams, then other streams that have status rows."""
    wholes = StreamStatus.objects.filter(fleet="").order_by("stream")
    kept = wholes.values_list("stream", flat=True).distinct()
    return list(dict.fromkeys([*streams_settings, *kept]))


def is_kept(alias: str) -> bool:
    """Return whether a stream has status rows. PostgreSQL rejects a NUL in a query."""
    return "\0" not in alias and StreamStatus.objects.filter(stream=alias).exists()


@admin.register(FailedMessage)
class FailedMessageAdmin(Page, FailedAdmin):
    """
    Failed messages, which you can search, retry and delete, but not edit.

    A retry is not part of the request's transaction. Otherwise other processes would not see the
    claim, and a failing query of a handler would break the transaction.
    """

    list_display = ("stream", "error", "handler", "when", "attempts", "retrying")
    list_filter = ("stream", "handler")
    search_fields = ("stream", "handler", "error")
    date_hierarchy = "failed_at"
    search_help_text = (
        "Searches stream, handler, error and payload. In payloads, the search is case-sensitive."
    )
    actions = ("retry", "delete_selected")
    change_list_template = "datastream/failed_list.html"
    change_form_template = "datastream/failed.html"
    fields = readonly_fields = (
        *("stream", "handler", "error", "when", "attempts", "retrying", "received"),
        *("seq", "connection", "epoch", "shown_payload", "shown_traceback"),
    )

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        one, many = view(require_POST(self.retry_one)), view(require_POST(self.bulk))
        return [
            path("bulk/<str:verb>/", many, name="datastream_bulk"),
            path("<path:pk>/retry/", one, name="datastream_retry"),
            *super().get_urls(),
        ]

    @admin.display(description="failed", ordering="failed_at")
    def when(self, row: FailedMessage) -> SafeString | str:
        return moment(row.failed_at)

    @admin.display(description="retry")
    def retrying(self, row: FailedMessage) -> SafeString | str:
        if not is_claimed(row):
            return "–"
        return format_html("Being retried, started {}", moment(row.claimed_at))

    @admin.display(description="received")
    def received(self, row: FailedMessage) -> SafeString | str:
        return moment(row.received_at)

    @admin.display(description="payload")
    def shown_payload(self, row: FailedMessage) -> SafeString:
        return format_html('<pre class="datastream-text">{}</pre>', pretty(row.payload))

    @admin.display(description="traceback")
    def shown_traceback(self, row: FailedMessage) -> SafeString:
        return format_html('<pre class="datastream-text">{}</pre>', row.traceback)

    @non_atomic
    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        context = {"title": "Failed messages", "groups": groups(), **(extra_context or {})}
        return super().changelist_view(request, context)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        row = self.get_object(request, object_id)
        is_free = row is None or not is_claimed(row)
        nothing_to_save = {
            "show_save": False,
            "show_save_and_continue": False,
            "show_close": True,
            "title": "Failed message",
            "may_retry": is_free and self.has_change_permission(request),
            "show_delete": is_free,
        }
        context = nothing_to_save | (extra_context or {})
        return super().change_view(request, object_id, form_url, context)

    @non_atomic
    def retry_one(self, request: HttpRequest, pk: str) -> HttpResponse:
        """Retry the message of one page."""
        row = self.get_object(request, pk)
        if not self.has_change_permission(request, row):
            raise PermissionDenied
        outcome = retry([row])
        self._report(request, outcome)
        if outcome.failed:
            return HttpResponseRedirect(self._url("failedmessage_change", pk))
        return HttpResponseRedirect(self._url("failedmessage_changelist"))

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """Leave out the dates if MySQL or MariaDB lacks the time zone tables that they need."""
        found = super().get_changelist_instance(request)
        if not has_time_zones():
            found.date_hierarchy = None
        return found

    def get_queryset(self, request: HttpRequest) -> QuerySet[FailedMessage]:
        # The list shows no payloads, so it must not load them.
        return super().get_queryset(request).defer("data", "traceback")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[FailedMessage], search_term: str
    ) -> tuple[QuerySet[FailedMessage], bool]:
        """Search in payloads, too."""
        return found(queryset, search_term), False

    @admin.action(description="Retry selected messages", permissions=["change"])
    def retry(self, request: HttpRequest, rows: QuerySet[FailedMessage]) -> HttpResponse | None:
        """Retry messages for about two seconds. A progress page retries the rest."""
        work = Work.begin("retry", rows)
        work.retry_portion(self.get_queryset(request))
        if work.left:
            return self._progress(request, work)
        self._report(request, work.retried)
        return None

    @admin.action(description="Delete selected messages", permissions=["delete"])
    def delete_selected(
        self, request: HttpRequest, rows: QuerySet[FailedMessage]
    ) -> HttpResponse | None:
        """Ask for confirmation. Django's own page would load and list every message."""
        return self._progress(request, Work.begin("delete", rows), is_begun=False)

    @non_atomic
    def bulk(self, request: HttpRequest, verb: str) -> HttpResponse:
        """Retry or delete the next portion of the messages that the form lists."""
        may = {"retry": self.has_change_permission, "delete": self.has_delete_permission}
        if verb not in may:
            raise Http404
        if not may[verb](request):
            raise PermissionDenied
        try:
            work = Work.read(verb, request.POST)
        except ValueError:
            raise BadRequest(
                "The form is incomplete. Open the list of failed messages again."
            ) from None
        if verb == "retry":
            work.retry_portion(self.get_queryset(request))
        else:
            self._delete(request, work.next_to_delete())
        return self._progress(request, work)

    def _delete(self, request: HttpRequest, keys: list[int]) -> None:
        rows = self.get_queryset(request).filter(pk__in=keys)
        with transaction.atomic(using=router.db_for_write(self.model)):
            self.log_deletions(request, rows)
            rows.delete()

    def _progress(self, request: HttpRequest, work: Work, *, is_begun: bool = True) -> HttpResponse:
        return self._page(
            request,
            "bulk",
            f"{work.verb.capitalize()} failed messages",
            work=work,
            is_begun=is_begun,
            progress=work.progress,
            action=self._url("bulk", work.verb),
            back=self._url("failedmessage_changelist"),
        )

    def _report(self, request: HttpRequest, outcome: Retried) -> None:
        if outcome.handled:
            self.message_user(request, f"{outcome.handled} handled.", messages.SUCCESS)
        if outcome.failed:
            self.message_user(request, f"{outcome.failed} failed again.", messages.ERROR)
        if outcome.left_out:
            text = (
                f"{outcome.left_out} not retried, because another user or process is retrying "
                "them, or has already retried or deleted them."
            )
            self.message_user(request, text, messages.WARNING)


def has_time_zones() -> bool:
    """Return whether the database can convert times to the current time zone."""
    connection = connections[router.db_for_read(FailedMessage)]
    if connection.vendor != "mysql" or not settings.USE_TZ:
        return True
    zones = [connection.timezone_name, timezone.get_current_timezone_name()]
    with connection.cursor() as cursor:
        cursor.execute("SELECT CONVERT_TZ('2026-01-01', %s, %s) IS NOT NULL", zones)
        [found] = cursor.fetchone()
    return bool(found)


def groups() -> list[dict[str, Any]]:
    """Count the failed messages by stream, handler and kind of error, newest first."""
    found = FailedMessage.objects.order_by().values("stream", "group")
    counted = found.annotate(
        count=Count("pk"), first=Min("failed_at"), last=Max("failed_at"), newest=Max("pk")
    )
    rows = list(counted.order_by("-last")[:MOST_GROUPS])
    names = FailedMessage.objects.filter(pk__in=[row["newest"] for row in rows])
    by_pk = {row["pk"]: row for row in names.values("pk", "handler", "error")}
    return [{**row, **by_pk[row["newest"]]} for row in rows if row["newest"] in by_pk]


def pretty(payload: str | bytes) -> str:
    """Return a payload for display: JSON is indented, and bytes have the form of their repr."""
    if not isinstance(payload, str):
        return repr(payload)[:LONGEST_PAYLOAD]
    try:
        text = json.dumps(json.loads(payload), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        text = payload
    return storable(text[:LONGEST_PAYLOAD])
