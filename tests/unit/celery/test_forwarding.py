"""forward() and install() without any broker: what is refused, what a task is given, its id."""

from __future__ import annotations

import base64
import logging
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

celery = pytest.importorskip("celery")

from datastream_ws import Client, ConfigurationError, Postponed  # noqa: E402
from datastream_ws.celery import forward, forwarding, install  # noqa: E402
from datastream_ws.celery import publisher as publishing  # noqa: E402
from datastream_ws.celery.config import WorkerConfig, spool_path  # noqa: E402
from datastream_ws.celery.publisher import Publisher  # noqa: E402
from datastream_ws.celery.sources import installations  # noqa: E402
from datastream_ws.celery.step import DatastreamStep  # noqa: E402

URL = "ws://127.0.0.1:9/stream"


@pytest.fixture
def app() -> Any:
    app = celery.Celery("unit", broker="memory://", set_as_current=False)
    app.conf.task_always_eager = True
    return app


@pytest.fixture
def calls(app: Any) -> list[Any]:
    """What the task was called with: its id, its argument."""
    calls: list[Any] = []

    @app.task(name="unit.ingest", bind=True, shared=False)  # type: ignore[untyped-decorator,unused-ignore]
    def ingest(self: Any, argument: Any) -> None:
        calls.append((self.request.id, argument))

    return calls


# --- what a task is given ---------------------------------------------------------------------


def test_argument_of_a_text_message(app: Any, calls: list[Any]) -> None:
    client = Client(URL)
    forward(client, "unit.ingest")
    install(app, client)
    client.deliver('{"type": "tick", "n": 1}')
    [(_, argument)] = calls
    assert argument.pop("received_at") == pytest.approx(time.time(), abs=60)
    assert argument == {
        "data": '{"type": "tick", "n": 1}',
        "route": "tick",
        "seq": 1,
        "connection": 0,
        "epoch": 0,
        "stream": "default",
    }


def test_argument_of_a_binary_message(app: Any, calls: list[Any]) -> None:
    client = Client(URL)
    install(app, client)
    forward(client, "unit.ingest")
    client.deliver(b"\x00\xff")
    [(_, argument)] = calls
    assert (argument["binary"], base64.b64decode(argument["data"])) == (True, b"\x00\xff")


def test_batch_is_a_list(app: Any, calls: list[Any]) -> None:
    client = Client(URL)
    install(app, client)
    forward(client, "unit.ingest", batch=(10, 0.1))
    client.deliver("x")
    [(_, argument)] = calls
    assert [item["data"] for item in argument] == ["x"]


def test_only_the_route(app: Any, calls: list[Any]) -> None:
    client = Client(URL)
    install(app, client)
    forward(client, "unit.ingest", route="tick")
    client.deliver({"type": "tock"})
    client.deliver({"type": "tick"})
    assert [argument["route"] for _, argument in calls] == ["tick"]


def test_task_ids_are_stable_and_differ_by_task(app: Any, calls: list[Any]) -> None:
    """The same message to the same task: the same id, in every process that ever lives."""

    @app.task(name="unit.other", bind=True, shared=False)  # type: ignore[untyped-decorator,unused-ignore]
    def other(self: Any, argument: Any) -> None:
        calls.append((self.request.id, argument))

    client = Client(URL)
    install(app, client)
    forward(client, "unit.ingest")
    forward(client, other)
    client.deliver("x")
    client.deliver("x")
    ids = [task_id for task_id, _ in calls]
    assert ids[:2] == ids[2:]
    assert ids[0] != ids[1]
    assert ids[0] == "b1da50ca-5ea2-5720-8a0b-af17c80ce812"


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"serializer": "pickle"}, "pickle"),
        ({"serializer": "yaml"}, "yaml"),
        ({"task_id": "x"}, "task_id cannot be set"),
        ({"args": ()}, "args cannot be set"),
        ({"retry": True}, "retry cannot be set"),
        ({"batch": 100}, "batch must be"),
        ({"batch": (0, 1)}, "max_size"),
        ({"route": 7}, "route"),
        ({"task": ""}, "task"),
        ({"bacth": 5}, "unknown option 'bacth'. Did you mean 'batch'?"),
        ({"routes": "a"}, "Did you mean 'route'?"),
    ],
)
def test_forward_refuses(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        forward(Client(URL), **{"task": "unit.ingest", **arguments})


def test_a_worker_refuses_an_unsafe_serializer(app: Any) -> None:
    """Though only the app's configuration says so."""
    client = Client(URL)
    install(app, client)
    forward(client, "unit.unknown")
    app.conf.task_serializer = "pickle"
    with pytest.raises(ConfigurationError, match="Use serializer='json'"):
        step(app).create(worker_of(app))


def test_forward_without_install_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "installations", {})
    client = Client(URL)
    forward(client, "unit.ingest")
    with pytest.raises(ConfigurationError, match=r"Call install\(app, client\)"):
        client.deliver("x")


# --- install ----------------------------------------------------------------------------------


def test_install_twice_changes_nothing(app: Any) -> None:
    client = Client(URL)
    for _ in range(3):
        install(app, client)
        install(app, [client])
    assert len(app.user_options["worker"]) == 2
    assert list(app.steps["worker"]) == [DatastreamStep]
    assert [stream.client for stream in installations[app].streams()] == [client]


def test_two_clients_of_one_name(app: Any) -> None:
    install(app, [Client(URL, name="a"), Client(URL, name="b")])
    with pytest.raises(ConfigurationError, match="two streams have the name 'a'"):
        install(app, Client(URL, name="a"))


@pytest.mark.parametrize("wrong", [7, "default", object()])
def test_install_refuses(app: Any, wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="install"):
        install(app, wrong)


def test_without_django_it_must_be_told_which_streams(
    app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)
    install(app)
    with pytest.raises(ConfigurationError, match="DJANGO_SETTINGS_MODULE is not set"):
        step(app).create(worker_of(app))


# --- the step ---------------------------------------------------------------------------------


def worker_of(app: Any, pool: str = "prefork") -> Any:
    module = SimpleNamespace(__module__=f"celery.concurrency.{pool}")
    return SimpleNamespace(app=app, hostname="node@host", pool_cls=module)


def step(app: Any) -> DatastreamStep:
    return DatastreamStep(worker_of(app), datastream=True)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("pool", ["gevent", "eventlet"])
def test_green_pools(app: Any, pool: str) -> None:
    install(app, Client(URL))
    with pytest.raises(ConfigurationError, match=f"does not work with the {pool} pool"):
        step(app).create(worker_of(app, pool))


def test_defaults_in_a_worker(app: Any, state: Path) -> None:
    """Endless attempts, a slow pace after a fatal error, a spool where messages are forwarded."""
    plain, forwarded = Client(URL, name="plain"), Client(URL, name="forwarded")
    install(app, [plain, forwarded])
    forward(forwarded, "unit.ingest")
    step(app).create(worker_of(app))
    options = forwarded.options
    assert (options.max_reconnect_attempts, options.fatal_delay) == (None, 300.0)
    assert options.spool == str(state / "datastream-ws" / "unit" / "node@host.{name}.spool")
    assert plain.options.spool is None


def test_what_a_client_chose_wins(app: Any) -> None:
    client = Client(URL, spool=None, fatal_delay=None, max_reconnect_attempts=3)
    install(app, client)
    forward(client, "unit.ingest")
    step(app).create(worker_of(app))
    options = client.options
    assert (options.spool, options.fatal_delay, options.max_reconnect_attempts) == (None, None, 3)


def test_on_fatal_shutdown(app: Any) -> None:
    client = Client(URL)
    install(app, client)
    app.conf.datastream = {"on_fatal": "shutdown"}
    step(app).create(worker_of(app))
    assert client.options.fatal_delay is None


@pytest.mark.parametrize(
    ("flag", "environment", "conf", "enabled"),
    [
        (None, None, {}, False),
        (True, "0", {"enabled": False}, True),
        (False, "1", {"enabled": True}, False),
        (None, "1", {"enabled": False}, True),
        (None, "false", {"enabled": True}, False),
        (None, None, {"enabled": True}, True),
    ],
)
def test_who_says_whether_it_runs(
    app: Any,
    monkeypatch: pytest.MonkeyPatch,
    flag: bool | None,
    environment: str | None,
    conf: dict[str, Any],
    enabled: bool,
) -> None:
    """The command line, else the environment, else the app's configuration."""
    monkeypatch.delenv("CELERY_WORKER_DATASTREAM", raising=False)
    if environment is not None:
        monkeypatch.setenv("CELERY_WORKER_DATASTREAM", environment)
    app.conf.datastream = conf
    assert WorkerConfig.of(app, flag, None).enabled is enabled


@pytest.mark.parametrize(
    ("conf", "match"),
    [
        ({"enabld": True}, "Did you mean enabled"),
        ({"enabled": "yes"}, "True or False"),
        ({"on_fatal": "die"}, "'log' or 'shutdown'"),
        ("on", "must be a dict"),
    ],
)
def test_configuration_is_checked(app: Any, conf: Any, match: str) -> None:
    app.conf.datastream = conf
    with pytest.raises(ConfigurationError, match=match):
        WorkerConfig.of(app, None, None)


def test_a_spool_elsewhere_when_home_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = spool_path("proj", "celery@a/b")
    assert path is not None
    assert path.endswith("/proj/celery@a_b.{name}.spool")
    assert os.path.dirname(path).startswith(str(tmp_path / "datastream-ws-"))


# --- the publisher ----------------------------------------------------------------------------


class Hung:
    """A send that waits until it is told."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.released = threading.Event()

    def __call__(self, producer: Any, options: Any) -> None:
        self.entered.set()
        self.released.wait(30)


def refuse(*_: Any) -> None:
    raise ConnectionRefusedError(111, "Connection refused")


def test_a_hung_publish_is_left_behind(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next attempt goes over a new connection on a new thread."""
    monkeypatch.setattr(publishing, "LIMIT", 0.2)
    publisher, hung, threads = Publisher("s"), Hung(), []
    with pytest.raises(Postponed):
        publisher.publish(app, hung)
    publisher.publish(app, lambda *_: threads.append(threading.current_thread()))
    assert hung.entered.is_set()
    hung.released.set()
    publisher.close(2.0)
    assert len(threads) == 1


def test_streams_of_a_fleet_do_not_wait_one_after_the_other(
    app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind one that hangs the others are postponed with it, without an attempt of their own."""
    monkeypatch.setattr(publishing, "LIMIT", 0.5)
    publisher, hung = Publisher("fleet"), Hung()
    postponed: list[float] = []

    def publish() -> None:
        with pytest.raises(Postponed):
            publisher.publish(app, hung)
        postponed.append(time.monotonic())

    first = threading.Thread(target=publish)
    first.start()
    assert hung.entered.wait(10)
    others = [threading.Thread(target=publish) for _ in range(8)]
    for other in others:
        other.start()
    for thread in (first, *others):
        thread.join(10)
    hung.released.set()
    publisher.close(2.0)
    assert len(postponed) == 9
    assert max(postponed) - min(postponed) < 0.4, "one attempt after the other takes 4 s"


def test_not_too_many_are_left_behind(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "LIMIT", 0.05)
    publisher, hung = Publisher("s"), Hung()
    before = threading.active_count()
    for _ in range(20):
        with pytest.raises(Postponed):
            publisher.publish(app, hung)
    assert threading.active_count() - before <= publishing.MOST_ABANDONED
    hung.released.set()


def test_delays_grow_and_end(app: Any) -> None:
    """A broker that is away is asked again every second or two, however long it is away."""
    publisher = Publisher("s")
    delays = []
    for _ in range(12):
        with pytest.raises(Postponed) as caught:
            publisher.publish(app, refuse)
        delays.append(caught.value.delay)
    assert delays[0] <= 0.2
    assert all(1.0 <= delay <= publishing.LONGEST_DELAY for delay in delays[-4:])


def test_the_log_says_so_once(app: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Not at every attempt; and that it is over."""
    caplog.set_level(logging.INFO, "datastream_ws.celery")
    publisher = Publisher("s")
    for _ in range(5):
        with pytest.raises(Postponed):
            publisher.publish(app, refuse)
    publisher.publish(app, lambda *_: None)
    publisher.close(2.0)
    texts = [record.getMessage() for record in caplog.records]
    assert texts[0].startswith("stream s: the broker is unavailable (Connection")
    assert texts[1].startswith("stream s: the broker is available again after")
    assert len(texts) == 2


def test_an_error_of_the_message_is_raised(app: Any) -> None:
    """What can never be published is not tried for ever: it would hold up everything behind it."""
    publisher = Publisher("s")

    def fail(*_: Any) -> None:
        raise TypeError("not JSON")

    with pytest.raises(TypeError):
        publisher.publish(app, fail)
    publisher.close(2.0)


def test_a_forked_child_begins_anew(app: Any) -> None:
    """Whatever the parent's threads hold at that moment."""
    publisher = Publisher("s")
    publisher.publish(app, lambda *_: None)
    run_in_child(publisher, app)
    publisher.close(2.0)


def run_in_child(publisher: Publisher, app: Any) -> None:
    with publisher._lock:
        pid = os.fork()
        if not pid:
            try:
                publisher.publish(app, lambda *_: None)
                os._exit(0)
            except BaseException:
                os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
