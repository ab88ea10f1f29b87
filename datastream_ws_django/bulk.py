"""Search many failed messages, and retry or delete them in portions."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.db import models
from django.db.models import Func, Q, QuerySet
from django.utils.text import smart_split, unescape_string_literal

from .deadletters import Retried, retry
from .models import FailedMessage

__all__ = ["MOST_AT_ONCE", "Work", "found"]

MOST_AT_ONCE = 50_000  # messages of one action, because the form lists their keys
MOST_KEYS = 2**63  # the largest key that databases accept
PORTION_SECONDS = 2.0  # per request, unless a single handler takes longer
PORTION_DELETED = 500

Rows = QuerySet[FailedMessage]


class Holds(Func):
    """Test whether a binary column contains the given bytes."""

    template = "INSTR(%(expressions)s) > 0"
    output_field = models.BooleanField()

    def as_oracle(self, compiler: Any, connection: Any) -> Any:
        return self.as_sql(compiler, connection, template="DBMS_LOB.INSTR(%(expressions)s) > 0")

    def as_postgresql(self, compiler: Any, connection: Any) -> Any:
        turned = self.copy()
        turned.set_source_expressions(self.get_source_expressions()[::-1])
        words = {"template": "POSITION(%(expressions)s) > 0", "arg_joiner": " IN "}
        return turned.as_sql(compiler, connection, **words)


def found(rows: Rows, text: str) -> Rows:
    """Return the rows that contain every word of *text* in stream, handler, error or payload."""
    for word in smart_split(text):
        if word[0] == word[-1] and word[0] in "\"'":
            word = unescape_string_literal(word)
        names = ("stream", "handler", "error")
        said = [Q(**{f"{name}__icontains": word}) for name in names]
        # JSON may contain non-ASCII letters as they are or escaped.
        forms = {word, json.dumps(word)[1:-1]}
        held = [
            Q(Holds("data", models.Value(form.encode("utf-8", "surrogatepass")))) for form in forms
        ]
        rows = rows.filter(Q(*said, *held, _connector=Q.OR))
    return rows


@dataclass
class Work:
    """
    The progress of an action. The form of the progress page passes it on to the next request.

    Attributes:
        verb: ``retry`` or ``delete``.
        left: Primary keys of the messages that are still to be processed.
        done: Number of messages that were handled or deleted.
        failed: Number of messages that failed again.
        left_out: Number of messages that another process has claimed, handled or deleted.

    """

    verb: str
    left: list[int]
    done: int = 0
    failed: int = 0
    left_out: int = 0

    @classmethod
    def begin(cls, verb: str, rows: Rows) -> Work:
        """Return the action on all *rows*, in the order in which they were received."""
        keys = rows.order_by("stream", "epoch", "seq", "pk").values_list("pk", flat=True)
        return cls(verb, list(keys[:MOST_AT_ONCE]))

    @classmethod
    def read(cls, verb: str, form: Mapping[str, Any]) -> Work:
        """Return the action that a form describes. Raises ValueError if the form is malformed."""
        keys = [int(key) for key in str(form.get("left", "")).split(",") if key]
        if not all(0 <= key < MOST_KEYS for key in keys):
            raise ValueError("not the key of a row")
        counts = (int(form.get(name, 0)) for name in ("done", "failed", "left_out"))
        return cls(verb, keys[:MOST_AT_ONCE], *counts)

    @property
    def total(self) -> int:
        return self.progress + len(self.left)

    @property
    def progress(self) -> int:
        return self.done + self.failed + self.left_out

    @property
    def retried(self) -> Retried:
        return Retried(self.done, self.failed, self.left_out)

    @property
    def keys(self) -> str:
        """The remaining keys in the form's notation."""
        return ",".join(map(str, self.left))

    def retry_portion(self, rows: Rows) -> None:
        """Retry *rows* for PORTION_SECONDS, at least one."""
        deadline = time.monotonic() + PORTION_SECONDS
        while self.left:
            outcome = retry([rows.filter(pk=self.left.pop(0)).first()])
            self.done += outcome.handled
            self.failed += outcome.failed
            self.left_out += outcome.left_out
            if time.monotonic() > deadline:
                break

    def next_to_delete(self) -> list[int]:
        """Remove and return the keys of the next portion."""
        portion, self.left = self.left[:PORTION_DELETED], self.left[PORTION_DELETED:]
        self.done += len(portion)
        return portion
