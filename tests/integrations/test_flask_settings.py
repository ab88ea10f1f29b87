"""What app.config says, and what is wrong with it."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask, current_app

from datastream_ws import Client, ConfigurationError
from datastream_ws.testing import StreamServer
from datastream_ws_flask import DataStream
from kit.flaskproject import PATIENCE

URL = "wss://feed.example/v1"


def token() -> dict[str, str]:
    return {"X-App": current_app.name}


async def token_later() -> dict[str, str]:
    return token()


class Tokens:
    async def __call__(self) -> dict[str, str]:
        return token()


def client_of(config: dict[str, Any], name: str = "default") -> Client:
    app = Flask("shop")
    app.config.update(config)
    stream = DataStream(app, name=name)
    with app.app_context():
        return stream.client


def test_options_of_the_default_stream() -> None:
    options = client_of({"DATASTREAM_URL": URL, "DATASTREAM_PONG_TIMEOUT": 5.0}).options
    assert (options.url, options.pong_timeout, options.name) == (URL, 5.0, "default")


def test_options_of_a_named_stream() -> None:
    config = {"DATASTREAMS": {"prices": {"URL": URL, "INBOX_SIZE": 5}}}
    options = client_of(config, "prices").options
    assert (options.url, options.inbox_size, options.name) == (URL, 5, "prices")


def test_default_stream_among_the_named_ones() -> None:
    assert client_of({"DATASTREAMS": {"default": {"URL": URL}}}).options.url == URL


def test_defaults_of_a_serving_process() -> None:
    options = client_of({"DATASTREAM_URL": URL}).options
    assert options.max_reconnect_attempts is None
    assert options.fatal_delay == 300.0


def test_what_the_config_says_wins() -> None:
    config = {"URL": URL, "MAX_RECONNECT_ATTEMPTS": 3, "FATAL_DELAY": None, "RETRY_MESSAGE": None}
    options = client_of({f"DATASTREAM_{key}": value for key, value in config.items()}).options
    assert options.max_reconnect_attempts == 3
    assert options.fatal_delay is None
    assert options.retry_message is None


def test_config_may_come_after_init_app() -> None:
    stream, app = DataStream(), Flask("shop")
    stream.init_app(app)
    app.config["DATASTREAM_URL"] = URL
    with app.app_context():
        assert stream.client.options.url == URL


def test_dotted_paths() -> None:
    config = {"URL": URL, "RETRY": "operator.not_", "CODEC": "json", "ROUTE": "kind"}
    options = client_of({f"DATASTREAM_{key}": value for key, value in config.items()}).options
    assert options.retry is not None
    assert options.retry(ValueError()) is False
    assert options.route == "kind"


@pytest.mark.parametrize("function", [token, token_later, Tokens(), lambda: token_later()])
def test_headers_are_made_in_an_application_context(
    function: Any, stream_server: StreamServer
) -> None:
    app = Flask("shop")
    app.config.update(DATASTREAM_URL=lambda: f"{stream_server.url}/{current_app.name}")
    app.config["DATASTREAM_HEADERS"] = function
    stream = DataStream(app)
    stream.start(app)
    [connection] = stream_server.wait_connected(1, PATIENCE)
    stream.close(app)
    assert (connection.path, connection.headers["X-App"]) == ("/shop", "shop")


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({}, "default", r"no URL\. Set app\.config\['DATASTREAM_URL'\]"),
    ({"DATASTREAMS": {"prices": {}}}, "prices", r"Set app\.config\['DATASTREAMS'\]\['prices'\]"),
    ({"DATASTREAM_URL": "https://feed.example"}, "default", r"_URL'\]: must start with ws://"),
    ({"DATASTREAM_URL": URL, "DATASTREAM_PONG_TIME": 1}, "default", "_PONG_TIME'.*pong_timeout"),
    ({"DATASTREAM_URL": URL, "DATASTREAM_NAME": "x"}, "default", r"DataStream\(name=…\)"),
    ({"DATASTREAM_URL": URL, "DATASTREAM_ENABLED": "yes"}, "default", "ENABLED.*True or False"),
    ({"DATASTREAM_URL": URL, "DATASTREAM_AUTOSTART": 1}, "default", "AUTOSTART.*True or False"),
    (
        {"DATASTREAM_URL": URL, "DATASTREAM_CONTEXT": "runs"},
        "default",
        r"^app\.config\['DATASTREAM_CONTEXT'\]: must be 'message' or 'run' \(given: 'runs'\)$",
    ),
    ({"DATASTREAM_URL": URL, "DATASTREAM_CONTEXT": True}, "default", r"CONTEXT.*\(given: bool\)"),
    ({"DATASTREAMS": {"prices": {"URL": URL, "CONTEXT": []}}}, "prices", r"\['CONTEXT'\]: must"),
    (
        {"DATASTREAM_URL": "no.such.path"},
        "default",
        r"^app\.config\['DATASTREAM_URL'\]: 'no\.such\.path' cannot be imported",
    ),
    ({"DATASTREAM_URL": URL, "DATASTREAMS": {"default": {"URL": URL}}}, "default", "set twice"),
    ({"DATASTREAMS": [URL]}, "prices", "dict of dicts"),
    ({"DATASTREAMS": {"prices": URL}}, "prices", "dict of dicts"),
    ({"DATASTREAMS": {"prices": {"url": URL}}}, "prices", "no URL"),
    (
        {"DATASTREAMS": {"prices": {"URL": URL, "inbox_size": 1}}},
        "prices",
        r"^app\.config\['DATASTREAMS'\]\['prices'\]\['inbox_size'\]: must be in upper case$",
    ),
]


@pytest.mark.parametrize(("config", "name", "text"), WRONG)
def test_wrong_config(config: dict[str, Any], name: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        client_of(config, name)


def test_errors_show_no_secret() -> None:
    with pytest.raises(ConfigurationError) as caught:
        client_of({"DATASTREAM_URL": "wss://user:hunter2@feed.example/?key=hunter2"})
    assert "hunter2" not in str(caught.value)
