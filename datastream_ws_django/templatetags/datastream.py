"""Template filters of the admin pages for times, durations and states."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from django import template
from django.utils import timezone
from django.utils.formats import localize
from django.utils.html import format_html
from django.utils.safestring import SafeString

__all__ = ["age", "aware", "moment", "seconds", "states"]

register = template.Library()


@register.filter
def moment(at: datetime | None) -> SafeString | str:
    """Return a time with its age. The page's script shows it in the user's time zone."""
    if at is None:
        return "–"
    at = aware(at)
    shown = localize(timezone.localtime(at))
    return format_html(
        '<time datetime="{}" title="{}">{} ago</time>', at.isoformat(), shown, age(at)
    )


@register.filter
def age(at: datetime) -> str:
    """Return the time that has passed since then."""
    passed = max(0, int((timezone.now() - aware(at)).total_seconds()))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if passed >= size:
            return f"{passed // size} {unit}"
    return f"{passed} s"


def aware(at: datetime) -> datetime:
    """Return a time of the models as an aware time, also without USE_TZ."""
    return at if timezone.is_aware(at) else timezone.make_aware(at)


@register.filter
def seconds(value: float | None) -> str:
    """Return a duration in milliseconds or seconds."""
    if value is None:
        return "–"
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.1f} s"


@register.filter
def states(counts: Mapping[str, int] | None) -> str:
    """Return the number of streams in each state, largest first."""
    found = sorted((counts or {}).items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{number} {state}" for state, number in found) or "none"
