"""Claims on failed messages, so that only one process at a time retries a message."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.db.models import Q
from django.utils import timezone

from .models import FailedMessage

__all__ = ["CLAIM_SECONDS", "claim", "is_claimed", "release"]

CLAIM_SECONDS = 600.0  # after which the process that made the claim counts as dead


def claim(row: FailedMessage) -> bool:
    """
    Claim a row, so that no other process retries it.

    This is a single conditional UPDATE. If two processes try it, the second one matches no row.

    Returns:
        ``False`` if the row is claimed or deleted, or was retried since it was read.

    """
    now = timezone.now()
    is_free = Q(claimed_at=None) | Q(claimed_at__lt=oldest_claim())
    rows = FailedMessage.objects.filter(is_free, pk=row.pk, attempts=row.attempts)
    if not rows.update(claimed_at=now):
        return False
    row.claimed_at = now
    return True


def is_claimed(row: FailedMessage) -> bool:
    """Return whether a process was retrying the message when the row was read."""
    return row.claimed_at is not None and row.claimed_at >= oldest_claim()


def oldest_claim() -> datetime:
    return timezone.now() - timedelta(seconds=CLAIM_SECONDS)


def release(row: FailedMessage, **changes: Any) -> None:
    """Release a claim and change the row, unless another process has taken over the claim."""
    mine = FailedMessage.objects.filter(pk=row.pk, claimed_at=row.claimed_at)
    mine.update(claimed_at=None, **changes)
    row.claimed_at = None
