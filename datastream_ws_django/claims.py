"""A failed message is retried by one process at a time: whoever claims its row."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db.models import Q
from django.utils import timezone

from .models import FailedMessage

__all__ = ["CLAIM_SECONDS", "claim", "release"]

CLAIM_SECONDS = 600.0  # after which whoever had claimed it is taken for dead


def claim(row: FailedMessage) -> bool:
    """
    Claim a row, which every other process then leaves alone.

    One conditional UPDATE, which databases order: the second one finds the row changed.

    Returns:
        ``False`` if it is claimed, deleted, or was retried since it was read.

    """
    now = timezone.now()
    expired = now - timedelta(seconds=CLAIM_SECONDS)
    is_free = Q(claimed_at=None) | Q(claimed_at__lt=expired)
    rows = FailedMessage.objects.filter(is_free, pk=row.pk, attempts=row.attempts)
    if not rows.update(claimed_at=now):
        return False
    row.claimed_at = now
    return True


def release(row: FailedMessage, **changes: Any) -> None:
    """Give a claim up, with changes to the row; one that has expired may be another's by now."""
    mine = FailedMessage.objects.filter(pk=row.pk, claimed_at=row.claimed_at)
    mine.update(claimed_at=None, **changes)
    row.claimed_at = None
