"""The Schematic preset without a network: URLs, headers, messages, handlers."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest

from datastream_ws import ConfigurationError, DecodeError, __version__
from datastream_ws.schematic import (
    Action,
    AsyncClient,
    Client,
    DataStreamErrorMessage,
    DataStreamRequest,
    DataStreamResponse,
    EntityType,
    Handlers,
    MessageType,
    stream_headers,
    stream_url,
)
from datastream_ws.testing import capture_sent

KEY = "sch_secret_0123456789"

URLS = {
    # an API host becomes the datastream's
    "https://api.schematichq.com": "wss://datastream.schematichq.com/datastream",
    "https://api.staging.example.com": "wss://datastream.staging.example.com/datastream",
    "http://api.localhost:8080": "ws://datastream.localhost:8080/datastream",
    "https://API.example.com": "wss://datastream.example.com/datastream",
    "HTTPS://api.example.com": "wss://datastream.example.com/datastream",
    # another keeps its name
    "https://custom.example.com": "wss://custom.example.com/datastream",
    "https://example.com": "wss://example.com/datastream",
    "https://rest.api.example.com": "wss://rest.api.example.com/datastream",
    "https://apis.example.com": "wss://apis.example.com/datastream",
    "http://localhost:8080": "ws://localhost:8080/datastream",
    "http://api:8080": "ws://api:8080/datastream",
    "http://127.0.0.1:8080": "ws://127.0.0.1:8080/datastream",
    "https://api.example.com:443": "wss://datastream.example.com:443/datastream",
    # brackets are a part of the address
    "http://[::1]:8080": "ws://[::1]:8080/datastream",
    "https://[2001:db8::1]": "wss://[2001:db8::1]/datastream",
    # the path is the datastream's, the query is the user's
    "https://api.example.com/": "wss://datastream.example.com/datastream",
    "https://api.example.com/v1/flags": "wss://datastream.example.com/datastream",
    "https://api.example.com?region=eu": "wss://datastream.example.com/datastream?region=eu",
    # ready-made
    "ws://127.0.0.1:8080": "ws://127.0.0.1:8080",
    "wss://api.example.com/ws?a=b": "wss://api.example.com/ws?a=b",
}

NOT_URLS = [
    "",
    "not-a-url",
    "api.example.com",
    "ftp://api.example.com",
    "https:",
    "https://",
    "https:///path",
    "https://:8080",
    "https://api.example.com:0",
    "https://api.example.com:99999",
    "https://api.example.com:http",
    "https://[::1",
    "https://user:password@api.example.com",
    "https://api.example.com/#fragment",
    "https://api.example.com/\r\nX-Evil: 1",
    "https://api.example.com/with space",
    "wss://",
    None,
    b"https://api.example.com",
    5,
]

NOT_KEYS = ["", "  ", "key\n", "key\r\nX-Evil: 1", "key\0", "schlüssel…", None, 5, b"key"]


@pytest.mark.fault("P16")
@pytest.mark.parametrize(("url", "expected"), URLS.items())
def test_stream_url(url: str, expected: str) -> None:
    assert stream_url(url) == expected


@pytest.mark.parametrize("url", NOT_URLS)
def test_wrong_url_is_refused_without_being_shown(url: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^url: ") as caught:
        stream_url(url)
    assert not url or str(url) not in str(caught.value)
    with pytest.raises(ConfigurationError, match=r"^url: "):
        Client(KEY, url)


def test_url_is_schematics_unless_told() -> None:
    assert Client(KEY).options.url == "wss://datastream.schematichq.com/datastream"


def test_headers() -> None:
    expected = {
        "X-Schematic-Api-Key": KEY,
        "X-Schematic-Datastream-Mode": "direct",
        "X-Schematic-Client": "datastream-ws",
        "X-Schematic-Client-Version": __version__,
    }
    assert stream_headers(KEY) == expected
    assert Client(KEY).options.headers == expected
    assert AsyncClient(KEY).options.headers == expected


def test_headers_of_the_user_come_along_and_win() -> None:
    client = Client(KEY, headers={"X-Own": "1", "x-schematic-client": "mine"})
    headers: Any = client.options.headers
    assert headers["X-Own"] == "1"
    assert headers["x-schematic-client"] == "mine"
    assert "X-Schematic-Client" not in headers


@pytest.mark.parametrize("key", NOT_KEYS)
@pytest.mark.parametrize("headers", [{}, dict], ids=["mapping", "callable"])
def test_wrong_key_is_refused_without_being_shown(key: Any, headers: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^api_key: ") as caught:
        Client(key, headers=headers)
    assert not key or str(key).strip() == "" or str(key) not in str(caught.value)


def test_wrong_headers_are_named_as_the_option() -> None:
    with pytest.raises(ConfigurationError, match=r"^headers: "):
        Client(KEY, headers={"X-Own": "a\nb"})


def test_key_is_in_no_repr() -> None:
    client = Client(KEY, headers=lambda: {})
    assert KEY not in repr(client) + repr(client.aio) + repr(client.options)
    assert KEY not in repr(AsyncClient(KEY)) + str(Client(lambda: KEY))


def test_unknown_option_is_the_cores_error() -> None:
    with pytest.raises(ConfigurationError, match="pong_timeout"):
        Client(KEY, pong_timout=5)


# --- messages ---


def test_request() -> None:
    request = DataStreamRequest(EntityType.COMPANY, {"id": "acme"})
    wire = {"action": "start", "entity_type": "rulesengine.Company", "keys": {"id": "acme"}}
    assert request.to_json() == {"data": wire}
    assert json.loads(json.dumps(request.to_json())) == request.to_json()
    assert DataStreamRequest.from_json(request.to_json()) == request


def test_request_without_keys_has_none_on_the_wire() -> None:
    without: list[dict[str, str] | None] = [None, {}]
    for keys in without:
        data = DataStreamRequest(EntityType.FLAGS, keys, Action.STOP).to_json()["data"]
        assert data == {"action": "stop", "entity_type": "rulesengine.Flags"}


def test_request_takes_values_for_members() -> None:
    request = DataStreamRequest("rulesengine.Flags", action="stop")  # type: ignore[arg-type]
    assert (request.entity_type, request.action) == (EntityType.FLAGS, Action.STOP)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("flags",), "entity_type"),
        ((None,), "entity_type"),
        ((EntityType.USER, "id"), "keys"),
        ((EntityType.USER, {"id": 5}), "keys"),
        ((EntityType.USER, None, "begin"), "action"),
    ],
)
def test_impossible_request(arguments: Any, named: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{named}: "):
        DataStreamRequest(*arguments)


@pytest.mark.parametrize("obj", [None, [], {}, {"data": 5}, {"data": {"entity_type": "x"}}])
def test_what_is_no_request(obj: Any) -> None:
    with pytest.raises(DecodeError, match="request"):
        DataStreamRequest.from_json(obj)


def test_response() -> None:
    wire = {
        "data": {"credits": 5},
        "entity_type": "rulesengine.Company",
        "entity_id": "comp_1",
        "message_type": "partial",
    }
    response = DataStreamResponse.from_json(wire)
    assert response.entity_type is EntityType.COMPANY
    assert response.message_type is MessageType.PARTIAL
    assert (response.data, response.entity_id) == ({"credits": 5}, "comp_1")
    assert response.error is None
    assert response.to_json() == wire


def test_response_with_what_a_newer_server_says() -> None:
    wire = {"data": 1, "entity_type": "rulesengine.Plan", "message_type": "merge"}
    response = DataStreamResponse.from_json(wire)
    assert response.entity_type == "rulesengine.Plan"
    assert response.message_type is MessageType.UNKNOWN


def test_response_with_nothing_in_it() -> None:
    expected = DataStreamResponse(None, "", MessageType.UNKNOWN, None)
    assert DataStreamResponse.from_json({}) == expected


@pytest.mark.parametrize("obj", [None, [], "full", 5])
def test_what_is_no_response(obj: Any) -> None:
    with pytest.raises(DecodeError, match="response"):
        DataStreamResponse.from_json(obj)


def test_error_message() -> None:
    data = {"error": "no such company", "keys": {"id": "x"}, "entity_type": "rulesengine.Company"}
    response = DataStreamResponse.from_json({"message_type": "error", "data": data})
    expected = DataStreamErrorMessage("no such company", {"id": "x"}, EntityType.COMPANY)
    assert response.error == expected
    assert expected.to_json() == data


def test_reprs_show_no_payload() -> None:
    secret = "s3cr3t"
    shown = [
        DataStreamRequest(EntityType.USER, {"email": secret}),
        DataStreamResponse({"plan": secret}, EntityType.USER, MessageType.FULL, "user_1"),
        DataStreamErrorMessage("not\nfound" + "!" * 1000, {"email": secret}),
    ]
    assert [secret in repr(each) for each in shown] == [False] * 3
    assert all(len(repr(each)) < 300 and "\n" not in repr(each) for each in shown)


# --- handlers ---


def full(entity_type: EntityType, data: Any) -> dict[str, Any]:
    return DataStreamResponse(data, entity_type, MessageType.FULL).to_json()


def test_on_entity_is_given_responses_of_its_types() -> None:
    client = Client(KEY)
    flags: list[Any] = []
    both: list[Any] = []
    everything: list[Any] = []

    @client.on_entity(EntityType.FLAGS)
    def one(response: DataStreamResponse) -> None:
        flags.append(response.data)

    @client.on_entity("rulesengine.Flag", EntityType.FLAGS)
    async def two(response: DataStreamResponse) -> None:
        both.append(response.entity_type)

    @client.on_entity()
    def three(response: DataStreamResponse) -> None:
        everything.append(response)

    client.deliver(full(EntityType.FLAGS, [1]))
    client.deliver(full(EntityType.FLAG, {}))
    client.deliver(full(EntityType.COMPANY, {}))
    client.deliver("no JSON")
    client.deliver([1])
    assert flags == [[1]]
    assert both == [EntityType.FLAGS, EntityType.FLAG]
    assert len(everything) == 3


def test_on_entity_awaits_a_partial_of_an_object_with_a_coroutine_call() -> None:
    """Otherwise its coroutine would never be awaited."""

    class Keeper:
        async def __call__(self, kept: list[Any], response: DataStreamResponse) -> None:
            kept.append(response.data)

    client = Client(KEY)
    kept: list[Any] = []
    client.on_entity(EntityType.FLAGS)(functools.partial(Keeper(), kept))
    client.deliver(full(EntityType.FLAGS, [1]))
    assert kept == [[1]]


def test_error_goes_to_the_handlers_of_the_type_it_names() -> None:
    client = Client(KEY)
    seen: list[DataStreamErrorMessage | None] = []
    client.on_entity(EntityType.USER)(lambda response: seen.append(response.error))
    error = DataStreamErrorMessage("gone", {"id": "x"}, EntityType.USER)
    client.deliver({"message_type": "error", "data": error.to_json()})
    client.deliver({"message_type": "error", "data": {"error": "of nothing"}})
    assert seen == [error]


def test_route_is_the_entity_type() -> None:
    client = Client(KEY)
    routes: list[Any] = []
    client.on_message("rulesengine.Flags")(lambda message: routes.append(message.route))
    client.deliver(full(EntityType.FLAGS, []))
    client.deliver(full(EntityType.FLAG, {}))
    assert routes == ["rulesengine.Flags"]


def test_on_entity_works_with_any_route() -> None:
    client = Client(KEY, route="message_type")
    seen: list[Any] = []
    client.on_entity(EntityType.FLAGS)(seen.append)
    client.deliver(full(EntityType.FLAGS, []))
    assert len(seen) == 1


def test_handlers_before_any_client() -> None:
    registry = Handlers()
    seen: list[Any] = []
    registry.on_entity(EntityType.FLAGS)(seen.append)
    Client(KEY, handlers=registry).deliver(full(EntityType.FLAGS, []))
    assert len(seen) == 1


def test_what_a_handler_raises_is_its_own_and_its_name_is_kept() -> None:
    client = Client(KEY)

    @client.on_entity(EntityType.FLAGS)
    def broken(response: DataStreamResponse) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        client.deliver(full(EntityType.FLAGS, []))
    [handler] = client.handlers.match(flags_message())
    assert handler.name.endswith("broken")


def flags_message() -> Any:
    seen: list[Any] = []
    probe = Client(KEY)
    probe.on_message(seen.append)
    probe.deliver(full(EntityType.FLAGS, []))
    return seen[0]


def test_on_entity_refuses_what_would_never_match() -> None:
    with pytest.raises(ConfigurationError, match="entity_type"):
        Client(KEY).on_entity("flags")
    with pytest.raises(ConfigurationError, match="on_entity"):
        Client(KEY).on_entity(print)  # type: ignore[arg-type]


def test_start_and_stop_without_a_server() -> None:
    client = Client(KEY)
    with capture_sent(client) as sent:
        client.start_entity(EntityType.FLAGS)
        client.start_entity(EntityType.USER, {"id": "1", "email": "a@b.c"})
        client.stop_entity(EntityType.USER, {"email": "a@b.c", "id": "1"})
        client.stop_entity(EntityType.COMPANY, {"id": "never started"})
    actions = [(each["data"]["action"], each["data"]["entity_type"]) for each in sent]
    user = "rulesengine.User"
    assert actions == [("start", "rulesengine.Flags"), ("start", user), ("stop", user)]
