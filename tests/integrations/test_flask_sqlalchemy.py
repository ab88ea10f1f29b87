"""Handlers with Flask-SQLAlchemy: a session of its own for each message, lost connections."""

from __future__ import annotations

import queue
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import URL, create_engine, event, make_url, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from datastream_ws import Message
from datastream_ws.testing import StreamServer
from datastream_ws_flask import DataStream
from kit.flaskproject import PATIENCE
from kit.seen import eventually


class Base(DeclarativeBase):
    pass


class Tick(Base):
    __tablename__ = "tick"

    number: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[int] = mapped_column(default=0)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[URL]:
    if request.param == "sqlite":
        yield make_url(f"sqlite:///{tmp_path}/ticks.db?timeout=60")
        return
    url = make_url(request.getfixturevalue("database_url")).set(drivername="postgresql+psycopg")
    name = f"datastream_flask_{uuid.uuid4().hex[:12]}"
    server = create_engine(url, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield url.set(database=name)
    with server.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    server.dispose()


@pytest.fixture
def db() -> SQLAlchemy:
    return SQLAlchemy(model_class=Base)


@pytest.fixture
def stream() -> DataStream:
    return DataStream()


@pytest.fixture
def app(
    db: SQLAlchemy, stream: DataStream, database: URL, stream_server: StreamServer
) -> Iterator[Flask]:
    app = Flask("shop")
    app.config["SQLALCHEMY_DATABASE_URI"] = database
    app.config["DATASTREAM_URL"] = stream_server.url
    db.init_app(app)
    stream.init_app(app)
    with app.app_context():
        event.listen(db.engine, "connect", in_a_hurry)
        Base.metadata.create_all(db.engine)
    yield app
    stream.close(app)
    with app.app_context():
        db.engine.dispose()


def in_a_hurry(connection: Any, record: object) -> None:
    """Commit without waiting for the disk: the test does not cut the power."""
    sqlite = type(connection).__module__.startswith("sqlite3")
    slow = "PRAGMA synchronous = OFF" if sqlite else "SET synchronous_commit = off"
    connection.execute(slow)
    connection.commit()


def started(app: Flask, stream: DataStream) -> None:
    stream.start(app)
    with app.app_context():
        stream.client.wait_ready(PATIENCE)


def numbers(app: Flask, db: SQLAlchemy) -> list[int]:
    with app.app_context():
        return list(db.session.scalars(select(Tick.number).order_by(Tick.number)))


# --- a lost connection costs no message -----------------------------------------------------------


@pytest.mark.timeout(600)
@pytest.mark.parametrize("count", [1_500, pytest.param(10_000, marks=pytest.mark.ci)])
def test_no_message_is_missing_after_five_dropped_connections(
    app: Flask,
    db: SQLAlchemy,
    stream: DataStream,
    database: URL,
    stream_server: StreamServer,
    count: int,
) -> None:
    drop_at = range(count // 10, count, count // 5)
    losses: list[object] = []
    moments: queue.SimpleQueue[int] = queue.SimpleQueue()
    done = threading.Event()
    drop_own = dropper_of_own_connection(db)

    @stream.on_message
    def store(message: Message) -> None:
        number = message.json()["number"]
        if number in drop_at:
            moments.put(number)
            if database.drivername == "sqlite":
                drop_own(number)
        db.session.merge(Tick(number=number))
        db.session.commit()
        if number == count:
            done.set()

    with app.app_context():
        event.listen(db.engine, "handle_error", lambda lost: losses.append(lost.is_disconnect))
    started(app, stream)
    sender = threading.Thread(target=send_all, args=(stream_server, count))
    sender.start()
    for _ in drop_at:
        moments.get(timeout=300)
        if database.drivername != "sqlite":
            terminate_backends(database)
    assert done.wait(300)
    sender.join(PATIENCE)
    stream.close(app)
    with app.app_context():
        stats = stream.client.stats()
        assert db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]  # of a QueuePool
    assert (stats.messages_handled, stats.messages_failed) == (count, 0)
    assert losses.count(True) >= len(drop_at) == 5
    assert numbers(app, db) == list(range(1, count + 1))


def send_all(server: StreamServer, count: int) -> None:
    for number in range(1, count + 1):
        server.send({"number": number})


def dropper_of_own_connection(db: SQLAlchemy) -> Callable[[int], None]:
    """SQLite has no server that could drop a connection: close it under SQLAlchemy's hands."""
    dropped: set[int] = set()

    def drop(number: int) -> None:
        if number not in dropped:
            dropped.add(number)
            connection = db.session.connection().connection.dbapi_connection
            assert connection is not None
            connection.close()

    return drop


def terminate_backends(database: URL) -> None:
    engine = create_engine(database, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        ended = connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        ).all()
    engine.dispose()
    assert ended


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_connection_lost_twice_for_one_message_fails_it(
    app: Flask, db: SQLAlchemy, stream: DataStream, stream_server: StreamServer
) -> None:
    tries: list[object] = []

    @stream.on_message
    def store(message: Message) -> None:
        tries.append(message.data)
        dropper_of_own_connection(db)(1)
        db.session.merge(Tick(number=1))

    started(app, stream)
    stream_server.send("x")
    stream.close(app)
    with app.app_context():
        assert stream.client.stats().messages_failed == 1
    assert tries == ["x", "x"]


# --- sessions do not leak -------------------------------------------------------------------------


def test_each_message_has_a_session_of_its_own(
    app: Flask, db: SQLAlchemy, stream: DataStream, stream_server: StreamServer
) -> None:
    """Nothing that one handler leaves behind is seen by the next; red when contexts are shared."""
    seen: list[list[int]] = []
    sessions: list[object] = []

    def leave_behind(message: Message) -> None:
        sessions.append(db.session())
        seen.append(list(db.session.scalars(select(Tick.number))))
        db.session.add(Tick(number=message.seq))
        db.session.flush()  # no commit

    @stream.on_message
    def plain(message: Message) -> None:
        leave_behind(message)

    @stream.on_message
    async def coroutine(message: Message) -> None:
        leave_behind(message)

    started(app, stream)
    for _ in range(3):
        stream_server.send("x")
    stream.close(app)
    with app.app_context():
        assert stream.client.stats().messages_failed == 0
        assert db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]  # of a QueuePool
    assert seen == [[]] * 6
    assert len({id(session) for session in sessions}) == 6
    assert numbers(app, db) == []


def test_a_failed_message_leaves_no_broken_session_to_its_run(
    app: Flask, db: SQLAlchemy, stream: DataStream, stream_server: StreamServer
) -> None:
    """With one context for a run, too: without an end of it, every later message would fail."""
    app.config["DATASTREAM_CONTEXT"] = "run"
    hurry = threading.Event()

    @stream.on_message
    def store(message: Message) -> None:
        hurry.wait(PATIENCE)
        db.session.add(Tick(number=int(message.data)))
        db.session.commit()  # fails for the second one, and the session with it

    started(app, stream)
    with app.app_context():
        client = stream.client
    for data in ["1", "1", "2", "3"]:
        stream_server.send(data)
    eventually(lambda: client.stats().messages_received == 4)
    hurry.set()
    stream.close(app)
    assert numbers(app, db) == [1, 2, 3]
    assert client.stats().messages_failed == 1


def test_each_message_sees_what_others_have_committed(
    app: Flask, db: SQLAlchemy, stream: DataStream, stream_server: StreamServer
) -> None:
    values: queue.SimpleQueue[int] = queue.SimpleQueue()
    with app.app_context():
        db.session.add(Tick(number=1, value=0))
        db.session.commit()

    @stream.on_message
    def read(message: Message) -> None:
        tick = db.session.get(Tick, 1)
        assert tick is not None
        values.put(tick.value)

    started(app, stream)
    for value in range(3):
        with app.app_context():
            tick = db.session.get(Tick, 1)
            assert tick is not None
            tick.value = value
            db.session.commit()
        stream_server.send("x")
        assert values.get(timeout=PATIENCE) == value


def test_deliver_uses_the_database_of_the_test(
    app: Flask, db: SQLAlchemy, stream: DataStream
) -> None:
    @stream.on_message
    def store(message: Message) -> None:
        db.session.add(Tick(number=message.json()["number"]))
        db.session.commit()

    stream.deliver(app, {"number": 7})
    assert numbers(app, db) == [7]
