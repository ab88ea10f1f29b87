"""``DATASTREAMS``: what is made of it, when it is read, and what its errors say."""

from __future__ import annotations

import kit.djangohere  # noqa: F401 - what follows needs settings

# isort: split
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from datastream_ws import ClientOptions, State
from datastream_ws_django import Stream, datastream, datastreams
from datastream_ws_django.autostart import start
from datastream_ws_django.checks import check_settings
from datastream_ws_django.conf import streams_settings
from datastream_ws_django.db import is_passing
from kit.djangoproject import Project

URL = "wss://feed.example/v1"


def options(**settings: Any) -> ClientOptions:
    """Return the options of a background stream with these settings."""
    with override_settings(DATASTREAMS={"default": {"URL": URL, **settings}}):
        return streams_settings["default"].client_options()


def make_headers() -> dict[str, str]:
    return {"Authorization": "Bearer fresh"}


class Collector:
    """A message handler given by its class."""

    seen: list[Any] = []  # noqa: RUF012 - what the settings make, the test reads here

    def handle_message(self, message: Any) -> None:
        self.seen.append(message.data)


def test_what_django_changes_of_the_defaults() -> None:
    assert options().max_reconnect_attempts is None
    assert options().fatal_delay == 300
    assert options().retry_message is is_passing
    assert options().name == "default"


def test_the_debug_page_hides_headers() -> None:
    """Django masks settings by their names: those of headers with a secret in them are among."""
    from django.views.debug import SafeExceptionReporterFilter

    headers = {"Authorization": "s3cr3t", "X-Api-Key": "s3cr3t", "X-Auth-Token": "s3cr3t"}
    with override_settings(DATASTREAMS={"default": {"URL": URL, "HEADERS": headers}}):
        shown = SafeExceptionReporterFilter().get_safe_settings()["DATASTREAMS"]
    assert "X-Api-Key" in str(shown)
    assert "s3cr3t" not in str(shown)


def test_in_the_foreground_a_fatal_error_ends_it() -> None:
    with override_settings(DATASTREAMS={"default": {"URL": URL}}):
        assert streams_settings["default"].client_options(foreground=True).fatal_delay is None


def test_what_settings_say_wins() -> None:
    made = options(MAX_RECONNECT_ATTEMPTS=3, FATAL_DELAY=7, RETRY_MESSAGE=None, PONG_TIMEOUT=20)
    assert (made.max_reconnect_attempts, made.fatal_delay) == (3, 7)
    assert (made.retry_message, made.pong_timeout) == (None, 20)


def test_every_option_but_two_may_be_set() -> None:
    plain = ClientOptions(URL)
    own = {"NAME", "HANDLERS"}
    given = {name.upper(): getattr(plain, name) for name in ClientOptions.names()}
    made = options(**{name: value for name, value in given.items() if name not in own})
    assert made.max_size == plain.max_size
    for name in own:
        with pytest.raises(ImproperlyConfigured, match=name):
            options(**{name: "x"})


def test_autostart_tells_what_is_wrong_and_starts_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An import that fails for reasons of its own, too; none of it is the request's."""
    (tmp_path / "broken_by_itself.py").write_text("1 / 0")
    # Not syspath_prepend(): the Autobahn cases leave a pkg_resources behind that it cannot use.
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    wrong: dict[str, dict[str, Any]] = {
        "import": {"CODEC": "broken_by_itself.Codec"},
        "url": {"URL": ""},
        "option": {"NO": 1},
    }
    setting = {name: {"URL": URL, "AUTOSTART": True, **more} for name, more in wrong.items()}
    setting["last"] = {"URL": "ws://127.0.0.1:1/", "AUTOSTART": True}
    with override_settings(DATASTREAMS=setting):
        for alias in setting:
            start(alias)
        told = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        try:
            assert [text.partition("]")[0] for text in told] == [
                f"AUTOSTART: DATASTREAMS['{alias}'" for alias in wrong
            ]
            assert "ZeroDivisionError" in told[0]
            assert not datastreams["last"].state.is_final
            # W002 is about handlers that other tests have registered for their own streams.
            found = [message.id for message in check_settings()]
            assert [each for each in found if each != "datastream.W002"] == [
                *("datastream.E003", "datastream.W001", "datastream.E002"),
            ]
        finally:
            datastreams["last"].close()


def test_dotted_paths_are_imported() -> None:
    assert options(HEADERS=f"{__name__}.make_headers").headers is make_headers
    assert callable(options(URL=f"{__name__}.make_headers").url)
    assert options(URL="ws://a.b.c").url == "ws://a.b.c"
    assert options(CODEC="json", ROUTE="kind", HEARTBEAT="ping").route == "kind"


def test_a_class_given_as_handler_is_made_once_and_gets_the_messages() -> None:
    Collector.seen.clear()
    for _ in range(2):
        setting = {"default": {"URL": URL, "MESSAGE_HANDLER": f"{__name__}.Collector"}}
        with override_settings(DATASTREAMS=setting):
            assert datastream.state is State.IDLE
            datastream.deliver("x")
            datastream.deliver("y")
    assert Collector.seen == ["x", "y"] * 2


@pytest.mark.parametrize("url", [{}, {"URL": None}, {"URL": ""}], ids=str)
def test_deliver_needs_no_url(url: dict[str, Any]) -> None:
    """As with ``"URL": os.environ.get("FEED_URL")`` where tests run."""
    Collector.seen.clear()
    settings = {**url, "MESSAGE_HANDLER": f"{__name__}.Collector"}
    with override_settings(DATASTREAMS={"default": settings}):
        datastream.deliver("x")
    assert Collector.seen == ["x"]


WRONG: list[tuple[Any, str]] = [
    ([], "DATASTREAMS: must be a dict of dicts"),
    ({"default": "wss://x"}, "must be a dict, not str"),
    ({"default": {}}, "URL: is missing. Add"),
    ({"default": {"URL": "https://x"}}, "URL: must start with ws:// or wss://"),
    ({"default": {"URL": "wss://u:hunter2@x"}}, "URL: must not contain a user or password"),
    ({"default": {"URL": "no.such.module"}}, "URL: 'no.such.module' cannot be imported"),
    ({"default": {"URL": URL, "PONG_TIMOUT": 3}}, "Did you mean 'PONG_TIMEOUT'?"),
    ({"default": {"URL": URL, "url": "x"}}, "Did you mean 'URL'?"),
    ({"default": {"URL": URL, "PONG_TIMEOUT": "3"}}, "PONG_TIMEOUT: must be a number"),
    (
        {"default": {"URL": URL, "HEADERS": {"A": "hunter2\n"}}},
        "HEADERS: contains a line break or NUL in 'A'",
    ),
    ({"default": {"URL": URL, "ENABLED": "yes"}}, "ENABLED: must be True or False"),
    ({"default": {"URL": URL, "ATOMIC": "other"}}, "ATOMIC: must be an alias of DATABASES"),
    ({"default": {"URL": URL, "DEAD_LETTER_DAYS": -1}}, "DEAD_LETTER_DAYS: must be a number"),
    ({"default": {"URL": URL, "LEASE": 3}}, "LEASE: must be"),
]


@pytest.mark.parametrize(("setting", "said"), WRONG)
def test_errors_name_the_stream_and_the_setting_and_no_secret(setting: Any, said: str) -> None:
    with override_settings(DATASTREAMS=setting), pytest.raises(ImproperlyConfigured) as caught:
        _ = datastream.state
    text = str(caught.value)
    assert said in text
    assert text.startswith("DATASTREAMS")
    assert "hunter2" not in text


def test_override_settings_is_followed() -> None:
    with override_settings(DATASTREAMS={"default": {"URL": URL, "MAX_SIZE": 7}}):
        inner = datastream.client
        assert inner is datastream.client
        assert datastream.options.max_size == 7
        with override_settings(DATASTREAMS={"default": {"URL": URL, "MAX_SIZE": 8}}):
            assert datastream.options.max_size == 8
        assert datastream.options.max_size == 7
        assert datastream.client is not inner


def test_a_stream_is_there_before_it_is_configured_and_stays_the_same() -> None:
    assert datastreams["default"] is datastream
    assert "default" not in datastreams
    with override_settings(DATASTREAMS={"default": {"URL": URL}, "b": {"URL": URL}}):
        assert list(datastreams) == ["default", "b"]
        assert datastreams["default"] is datastream
        assert datastream.state is State.IDLE


def test_a_disabled_stream_does_not_start() -> None:
    with override_settings(DATASTREAMS={"default": {"URL": URL, "ENABLED": False}}):
        datastream.start()
        assert datastream.state is State.IDLE


def test_there_is_one_client_per_alias_and_not_per_thread() -> None:
    from concurrent.futures import ThreadPoolExecutor

    with (
        override_settings(DATASTREAMS={"default": {"URL": URL}}),
        ThreadPoolExecutor(8) as pool,
    ):
        made = set(pool.map(lambda _: datastream.client, range(64)))
    assert len(made) == 1


def test_a_stream_has_every_name_of_a_client() -> None:
    from datastream_ws import Client

    public = {name for name in dir(Client) if not name.startswith("_")}
    with override_settings(DATASTREAMS={"default": {"URL": URL}}):
        assert [name for name in sorted(public | {"aio"}) if not hasattr(datastream, name)] == []
    with pytest.raises(AttributeError, match="no attribute 'sned'"):
        _ = Stream("x").sned


# Each alias has one mistake; what `check --deploy` must say of it.
CHECKED: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown": ({"URL": URL, "PONG_TIMOUT": 3}, "E002", "PONG_TIMEOUT"),
    "name": ({"URL": URL, "NAME": "x"}, "E002", "NAME"),
    "enabled": ({"URL": URL, "ENABLED": 1}, "E002", "ENABLED"),
    "autostart": ({"URL": URL, "AUTOSTART": "no"}, "E002", "AUTOSTART"),
    "atomic": ({"URL": URL, "ATOMIC": "nowhere"}, "E002", "ATOMIC"),
    "days": ({"URL": URL, "DEAD_LETTER_DAYS": "x"}, "E002", "DEAD_LETTER_DAYS"),
    "path": ({"URL": "shop.nothing.here"}, "E003", "URL"),
    "attribute": ({"URL": URL, "RETRY": "shop.models.nothing"}, "E003", "RETRY"),
    "missing": ({}, "W001", "URL"),
    "scheme": ({"URL": "http://x"}, "E004", "URL"),
    "userinfo": ({"URL": "wss://u:hidden@x"}, "E004", "URL"),
    "port": ({"URL": "wss://x:99999"}, "E004", "URL"),
    "fragment": ({"URL": "wss://x/#y"}, "E004", "URL"),
    "headers": ({"URL": URL, "HEADERS": {"A": "hidden\r\n"}}, "E004", "HEADERS"),
    "type": ({"URL": URL, "PONG_TIMEOUT": "60"}, "E004", "PONG_TIMEOUT"),
    "negative": ({"URL": URL, "WRITE_TIMEOUT": -1}, "E004", "WRITE_TIMEOUT"),
    "zero": ({"URL": URL, "CONCURRENCY": 0}, "E004", "CONCURRENCY"),
    "order": ({"URL": URL, "MIN_RECONNECT_DELAY": 99}, "E004", "MIN_RECONNECT_DELAY"),
    "overflow": ({"URL": URL, "OVERFLOW": "blok"}, "E004", "OVERFLOW"),
    "journal": ({"URL": URL, "JOURNAL": True}, "E004", "JOURNAL"),
    "lease": ({"URL": URL, "LEASE": 5}, "E004", "LEASE"),
    "plain": ({"URL": "ws://feed.example/"}, "W010", "URL"),
    "query": ({"URL": "wss://feed.example/?token=hidden"}, "W012", "URL"),
    "unverified": ({"URL": URL, "SSL": "project.tls.unverified"}, "W011", "SSL"),
}


def test_check_deploy_names_each_mistake(tmp_path: Path) -> None:
    streams = {alias: given for alias, (given, _, _) in CHECKED.items()}
    project = Project(tmp_path, DATASTREAMS=json.dumps(streams))
    (project.folder / "project" / "tls.py").write_text(
        "import ssl\nunverified = ssl._create_unverified_context()\n"
    )
    said = project.manage("check", "--deploy", "--tag", "datastream", code=1)
    lines = said.splitlines()
    for alias, (_, number, key) in CHECKED.items():
        about = [line for line in lines if f"DATASTREAMS['{alias}']" in line]
        assert len(about) == 1, f"{alias}: {about}"
        assert f"(datastream.{number})" in about[0], about
        assert key in about[0].replace(alias, ""), about
    assert "hidden" not in said
    # The stream that shop/datastreams.py has handlers for is not configured here.
    assert "(datastream.W002) handlers use the stream 'default'" in said


def test_good_settings_pass_every_check(tmp_path: Path) -> None:
    project = Project(tmp_path, URL, stream={"LEASE": "database", "ATOMIC": "default"})
    assert "no issues" in project.manage("check", "--deploy", "--tag", "datastream")
    assert "datastream" in project.manage("check", "--list-tags")


def test_kept_connections_that_nobody_checks_are_warned_about(tmp_path: Path) -> None:
    database = "postgresql://nobody@127.0.0.1:1/nothing"
    kept = json.dumps({"CONN_MAX_AGE": 600})
    project = Project(tmp_path, URL, database=database, DATABASE_SETTINGS=kept)
    assert "datastream.W004" in project.manage("check", "--tag", "datastream")


def test_migrate_shell_and_check_never_connect(tmp_path: Path, stream_server: Any) -> None:
    project = Project(tmp_path, stream_server.url, stream={"AUTOSTART": True})
    project.manage("migrate")
    project.manage("check", "--deploy")
    project.manage("shell", "-c", "from datastream_ws_django import datastream; datastream.state")
    assert stream_server.attempts == []
