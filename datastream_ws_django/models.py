"""The tables: heartbeats, history, events, commands, failed messages, leases."""

from __future__ import annotations

from typing import ClassVar

from django.db import models

from .db import NAME_LENGTH

__all__ = [
    "FailedMessage",
    "StreamCommand",
    "StreamEvent",
    "StreamLease",
    "StreamMinute",
    "StreamStatus",
]


class StreamStatus(models.Model):
    """
    How a stream was at the last heartbeat of a process that runs it.

    Attributes:
        state_since: When the stream came up, went down, or changed otherwise; the steps of
            reconnecting count as one state.
        rate: Messages handled per second, over the last heartbeats.
        oldest_waiting: Seconds that the oldest waiting message has waited.
        inbox_share: Of the inbox's room, what is taken, 0 to 1.
        last_error_at: When the last error came, to the exactness of a heartbeat.
        handlers: By name of the handler: calls, failures, p50, p95, max (seconds).
        fleet: Of a fleet's stream: the fleet, whose own row has it empty.
        streams: Of a fleet: how many streams of the process are in each state.
        source_size: Of a fleet: how many rows its source has; ``None``: it has not returned yet.
        events: Of a fleet's stream: the last ones, each as UNIX time, kind, text.

    """

    stream = models.CharField(max_length=NAME_LENGTH)
    host = models.CharField(max_length=NAME_LENGTH)
    pid = models.BigIntegerField("process id")
    state = models.CharField(max_length=20)
    beat_at = models.DateTimeField("last heartbeat", db_index=True)
    messages_received = models.BigIntegerField("received", default=0)
    messages_handled = models.BigIntegerField("handled", default=0)
    messages_unrouted = models.BigIntegerField("without handler", default=0)
    messages_failed = models.BigIntegerField("failed", default=0)
    messages_dropped = models.BigIntegerField("dropped", default=0)
    messages_waiting = models.BigIntegerField("waiting", default=0)
    messages_spooled = models.BigIntegerField("spooled", default=0)
    reconnects = models.BigIntegerField(default=0)
    connected_since = models.DateTimeField(null=True, blank=True)
    last_message_at = models.DateTimeField("last message", null=True, blank=True)
    last_error = models.TextField(blank=True)
    last_error_at = models.DateTimeField(null=True, blank=True)
    state_since = models.DateTimeField(null=True, blank=True)
    rate = models.FloatField("messages per second", default=0.0)
    oldest_waiting = models.FloatField(null=True, blank=True)
    inbox_share = models.FloatField(null=True, blank=True)
    handlers = models.JSONField(default=dict, blank=True)
    fleet = models.CharField(max_length=NAME_LENGTH, blank=True, default="")
    streams = models.JSONField(null=True, blank=True)
    source_size = models.BigIntegerField(null=True, blank=True)
    events = models.JSONField(default=list, blank=True)

    objects: ClassVar[models.Manager[StreamStatus]] = models.Manager()

    class Meta:
        verbose_name = "stream status"
        verbose_name_plural = "stream status"
        ordering = ("stream", "-beat_at")
        permissions = (("control_streamstatus", "Can pause, resume and reconnect streams"),)
        constraints = (
            models.UniqueConstraint(fields=("stream", "host", "pid"), name="datastream_one_row"),
        )
        indexes = (models.Index(fields=("fleet", "state"), name="datastream_status_fleet"),)

    def __str__(self) -> str:
        return f"{self.stream} on {self.host}, process {self.pid}: {self.state}"


class FailedMessage(models.Model):
    """
    A message that a handler failed with; a dead letter.

    Attributes:
        data: The payload; UTF-8 if *is_text*.
        seq, connection, epoch: The message's own.
        group: The same for failures of one handler with one kind of error.
        key: Of a fleet's stream: its key, a text unless it is a number; ``None``: there is none.
        claimed_at: Since when it is being retried; ``None``: it is not.

    """

    stream = models.CharField(max_length=NAME_LENGTH)
    handler = models.CharField(max_length=500)
    group = models.CharField(max_length=40, blank=True, editable=False)
    data = models.BinaryField()
    is_text = models.BooleanField(default=True)
    seq = models.BigIntegerField()
    connection = models.BigIntegerField()
    epoch = models.BigIntegerField()
    received_at = models.DateTimeField()
    failed_at = models.DateTimeField(db_index=True)
    attempts = models.PositiveIntegerField(default=1)
    error = models.TextField()
    traceback = models.TextField()
    key = models.JSONField(null=True, blank=True)
    claimed_at = models.DateTimeField(null=True, blank=True)

    objects: ClassVar[models.Manager[FailedMessage]] = models.Manager()

    class Meta:
        ordering = ("-failed_at", "-pk")
        indexes = (
            # Without the rows' payloads, which the groups' page would read otherwise.
            models.Index(fields=("stream", "group", "failed_at"), name="datastream_failed_group"),
        )

    def __str__(self) -> str:
        return f"message {self.seq} of {self.stream}, failed in {self.handler}"

    @property
    def payload(self) -> str | bytes:
        """As it was received; bytes where what should be text is none."""
        data = bytes(self.data)
        try:
            return data.decode("utf-8", "surrogatepass") if self.is_text else data
        except UnicodeDecodeError:
            return data


class StreamLease(models.Model):
    """
    Who owns a stream, with ``LEASE: "database"``.

    Attributes:
        holder: A token of the process that holds it; empty: nobody does.
        epoch: Of the tenure, or the last one.
        renewals: Counts up with each renewal: whoever sees it stand still for *ttl* seconds on
            a clock of its own knows that the holder is gone.
        renewed_at: By the holder's clock; for people, not for decisions.

    """

    stream = models.CharField(max_length=NAME_LENGTH, primary_key=True)
    holder = models.CharField(max_length=NAME_LENGTH, blank=True)
    epoch = models.BigIntegerField(default=0)
    renewals = models.BigIntegerField(default=0)
    ttl = models.FloatField(default=0.0)
    renewed_at = models.DateTimeField(null=True, blank=True)

    objects: ClassVar[models.Manager[StreamLease]] = models.Manager()

    def __str__(self) -> str:
        return f"{self.stream}: {self.holder or 'nobody'}"


class FleetMember(models.Model):
    """
    A process that shares a fleet, with ``SOURCE`` and ``LEASE: "database"``.

    Attributes:
        beat: Counts up with each renewal, as those of :class:`StreamLease` do.
        life: Seconds after which a beat that stands still means that the process is dead.
        limit: Most streams that it takes; ``None``: no limit.
        changes: Counts up with what it takes and lets go of: whoever has seen it need not read
            the holdings again.
        beat_at: By its own clock; for people, not for decisions.

    """

    token = models.CharField(max_length=NAME_LENGTH, primary_key=True)
    fleet = models.CharField(max_length=NAME_LENGTH, db_index=True)
    beat = models.BigIntegerField()
    life = models.FloatField()
    limit = models.BigIntegerField(null=True, blank=True)
    is_leaving = models.BooleanField(default=False)
    changes = models.BigIntegerField(default=0)
    beat_at = models.DateTimeField(null=True, blank=True)

    objects: ClassVar[models.Manager[FleetMember]] = models.Manager()

    def __str__(self) -> str:
        return f"{self.token} of {self.fleet}"


class FleetHolding(models.Model):
    """
    Which member of a fleet has a stream; one that is no member any more has nothing.

    Attributes:
        holder: A member's token.
        epoch: Of its tenure. All of a fleet come from the epoch of its :class:`StreamLease`.

    """

    pk = models.CompositePrimaryKey("fleet", "key")
    fleet = models.CharField(max_length=NAME_LENGTH)
    key = models.CharField(max_length=NAME_LENGTH)
    holder = models.CharField(max_length=NAME_LENGTH, blank=True)
    epoch = models.BigIntegerField(default=0)

    objects: ClassVar[models.Manager[FleetHolding]] = models.Manager()

    def __str__(self) -> str:
        return f"{self.fleet}/{self.key}: {self.holder or 'nobody'}"


class StreamCommand(models.Model):
    """
    What an operator has asked the processes of a stream to do.

    A pause stands until a resume, for processes that start later as well.

    Attributes:
        verb: ``pause``, ``resume`` or ``reconnect``.
        obeyed_by, obeyed_at: The first process that obeyed, and when.

    """

    stream = models.CharField(max_length=NAME_LENGTH)
    verb = models.CharField(max_length=20)
    asked_by = models.CharField(max_length=NAME_LENGTH)
    asked_at = models.DateTimeField(db_index=True)
    obeyed_by = models.CharField(max_length=NAME_LENGTH, blank=True)
    obeyed_at = models.DateTimeField(null=True, blank=True)

    objects: ClassVar[models.Manager[StreamCommand]] = models.Manager()

    def __str__(self) -> str:
        return f"{self.verb} {self.stream}, asked by {self.asked_by}"


class StreamEvent(models.Model):
    """A line of a stream's event log: what happened, or who asked for what."""

    stream = models.CharField(max_length=NAME_LENGTH)
    at = models.DateTimeField()
    kind = models.CharField(max_length=40)
    text = models.TextField(blank=True)
    process = models.CharField(max_length=2 * NAME_LENGTH, blank=True)

    objects: ClassVar[models.Manager[StreamEvent]] = models.Manager()

    class Meta:
        ordering = ("-at", "-pk")
        indexes = (models.Index(fields=("stream", "at"), name="datastream_event_at"),)

    def __str__(self) -> str:
        return f"{self.stream} {self.kind}: {self.text}"


class StreamMinute(models.Model):
    """
    What one process did for a stream in one minute.

    The key is the table's only index: a week of twenty streams is 200,000 rows.

    Attributes:
        minute: Minutes since 1970.
        run: A random number of the process's run.
        waiting: The most that waited at a heartbeat.
        handler_p95: Seconds; of the slowest handler.
        connected: Seconds of the minute.

    """

    pk = models.CompositePrimaryKey("stream", "minute", "run")
    stream = models.CharField(max_length=NAME_LENGTH)
    minute = models.IntegerField()
    run = models.BigIntegerField()
    received = models.BigIntegerField()
    handled = models.BigIntegerField()
    failed = models.IntegerField()
    waiting = models.IntegerField()
    reconnects = models.IntegerField()
    connected = models.SmallIntegerField()
    handler_p95 = models.FloatField(null=True)

    objects: ClassVar[models.Manager[StreamMinute]] = models.Manager()
