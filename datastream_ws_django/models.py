"""The tables of heartbeats, history, events, commands, failed messages and leases."""

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
    The state of a stream in one process, as of the process's last heartbeat.

    Attributes:
        state_since: Time of the last change of state. All steps of reconnecting count as one state.
        rate: Messages handled per second, over the last heartbeats.
        oldest_waiting: Seconds for which the oldest message in the inbox has waited.
        inbox_share: Used share of the inbox, from 0 to 1.
        last_error_at: Time of the heartbeat that first reported the last error.
        handlers: For each handler, its calls and failures, and p50, p95 and max in seconds.
        fleet: Name of the fleet that has the stream. It's empty for a fleet's own row.
        streams: For a fleet, the number of streams in each state in this process.
        source_size: For a fleet, the number of rows in its source. ``None`` means that the source
            has not returned yet.
        events: For a stream of a fleet, its last events, each as UNIX time, kind and text.

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
    A message with which a handler failed.

    Attributes:
        data: The payload. Text is stored as UTF-8.
        seq, connection, epoch: The attributes of the :class:`~datastream_ws.Message`.
        group: The same hash for all failures of one handler with the same kind of error.
        key: Key of the fleet's stream that received the message, a number or a text. ``None``
            means a single stream.
        claimed_at: Start of the current retry. ``None`` means that no process retries the message.

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
            # Lets the list of groups count rows without reading their payloads.
            models.Index(fields=("stream", "group", "failed_at"), name="datastream_failed_group"),
        )

    def __str__(self) -> str:
        return f"message {self.seq} of {self.stream}, failed in {self.handler}"

    @property
    def payload(self) -> str | bytes:
        """The payload as received. Text that is not valid UTF-8 stays bytes."""
        data = bytes(self.data)
        try:
            return data.decode("utf-8", "surrogatepass") if self.is_text else data
        except UnicodeDecodeError:
            return data


class StreamLease(models.Model):
    """
    The lease of a stream with ``LEASE: "database"``.

    Attributes:
        holder: Token of the process that holds the lease. It's empty while the lease is free.
        epoch: Epoch of the current holder, or of the last one.
        renewals: Grows with each renewal. If it does not change for *ttl* seconds, by the clock of
            a waiting process, the holder counts as dead.
        renewed_at: Time of the last renewal by the holder's clock. It is only informative.

    """

    stream = models.CharField(max_length=NAME_LENGTH, primary_key=True)
    holder = models.CharField(max_length=NAME_LENGTH, blank=True)
    epoch = models.BigIntegerField(default=0)
    renewals = models.BigIntegerField(default=0)
    ttl = models.FloatField(default=0.0)
    renewed_at = models.DateTimeField(null=True, blank=True)

    objects: ClassVar[models.Manager[StreamLease]] = models.Manager()

    def __str__(self) -> str:
        return f"{self.stream}: {self.holder or 'not held'}"


class FleetMember(models.Model):
    """
    A process that shares a fleet with ``SOURCE`` and ``LEASE: "database"``.

    Attributes:
        beat: Grows with each heartbeat, as ``renewals`` of :class:`StreamLease` does.
        life: Seconds without a new beat after which the process counts as dead.
        limit: Maximum number of streams that the process takes. ``None`` means no limit.
        changes: Grows when the process takes or releases streams. While it does not change, other
            processes need not read the holdings again.
        beat_at: Time of the last beat by the process's own clock. It is only informative.

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
    The process that holds a stream of a fleet. A row whose holder is no member is void.

    Attributes:
        holder: Token of a :class:`FleetMember`.
        epoch: Epoch of the holder, counted in the :class:`StreamLease` of the fleet.

    """

    pk = models.CompositePrimaryKey("fleet", "key")
    fleet = models.CharField(max_length=NAME_LENGTH)
    key = models.CharField(max_length=NAME_LENGTH)
    holder = models.CharField(max_length=NAME_LENGTH, blank=True)
    epoch = models.BigIntegerField(default=0)

    objects: ClassVar[models.Manager[FleetHolding]] = models.Manager()

    def __str__(self) -> str:
        return f"{self.fleet}/{self.key}: {self.holder or 'not held'}"


class StreamCommand(models.Model):
    """
    A command of an operator for the processes that run a stream.

    A pause stays in force until a resume, even for processes that start later.

    Attributes:
        verb: ``pause``, ``resume`` or ``reconnect``.
        obeyed_by, obeyed_at: The first process that carried out the command, and the time.

    """

    stream = models.CharField(max_length=NAME_LENGTH)
    verb = models.CharField(max_length=20)
    asked_by = models.CharField(max_length=NAME_LENGTH)
    asked_at = models.DateTimeField(db_index=True)
    obeyed_by = models.CharField(max_length=NAME_LENGTH, blank=True)
    obeyed_at = models.DateTimeField(null=True, blank=True)

    objects: ClassVar[models.Manager[StreamCommand]] = models.Manager()

    def __str__(self) -> str:
        return f"{self.verb} {self.stream}, requested by {self.asked_by}"


class StreamEvent(models.Model):
    """An event of a stream's log, such as a disconnection or a command of an operator."""

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
    The counters of a stream in one process, for one minute.

    The primary key is the table's only index, because twenty streams write 200,000 rows a week.

    Attributes:
        minute: Minutes since 1970.
        run: A random number that a process chooses when it starts.
        waiting: Maximum number of messages that waited in the inbox at a heartbeat.
        handler_p95: 95th percentile of the slowest handler, in seconds.
        connected: Seconds of the minute with a connection.

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
