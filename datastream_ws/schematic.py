"""
A client for the Schematic DataStream, with typed messages and subscriptions.

::

    client = Client(api_key)

    @client.on_entity(EntityType.FLAGS)
    def flags(response):
        cache.update((flag["key"], flag) for flag in response.data)

    client.start_entity(EntityType.FLAGS)               # sent again on every connection
    client.start_entity(EntityType.COMPANY, {"id": "acme"})
    client.run()

A request is sent as ``{"data": {"action", "entity_type", "keys"}}``. A response has the keys
``data``, ``entity_type``, ``entity_id`` and ``message_type``. The messages and most names are those
of Schematic's Go client, ``client.go`` and ``types.go`` in SchematicHQ/schematic-datastream-ws.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import wraps
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import datastream_ws as core

from . import ConfigurationError, DecodeError, Message, __version__
from .embedding import (
    Hidden,
    Serializable,
    check_function,
    check_headers,
    check_url,
    hides_arguments,
    is_coroutine_callable,
    peer_text,
)

__all__ = [
    "API_URL",
    "Action",
    "AsyncClient",
    "Client",
    "DataStreamErrorMessage",
    "DataStreamRequest",
    "DataStreamResponse",
    "EntityType",
    "Handlers",
    "MessageType",
    "stream_headers",
    "stream_url",
]

# Schematic's own client has the same limit. All flags of an account come in one message, about
# 0.5 MiB for 100 flags.
MAX_SIZE = 100 * 2**20
API_URL = "https://api.schematichq.com"
STREAM_PATH = "/datastream"
WEBSOCKET_SCHEMES = {"https": "wss", "http": "ws"}

F = TypeVar("F", bound=Callable[..., Any])
Source = str | Callable[[], str | Awaitable[str]]
Keys = Mapping[str, str]


class Action(StrEnum):
    """The action of a request, ``START`` or ``STOP``."""

    START = "start"
    STOP = "stop"


class EntityType(StrEnum):
    """
    The kind of entity. You request companies and users by their keys, and all flags at once.

    The values are ``COMPANY``, ``COMPANIES``, ``FLAG``, ``FLAGS``, ``USER`` and ``USERS``.
    """

    COMPANY = "rulesengine.Company"
    COMPANIES = "rulesengine.Companies"
    FLAG = "rulesengine.Flag"
    FLAGS = "rulesengine.Flags"
    USER = "rulesengine.User"
    USERS = "rulesengine.Users"


class MessageType(StrEnum):
    """
    The content of the ``data`` of a response.

    Attributes:
        FULL: The whole entity.
        PARTIAL: The fields that have changed.
        DELETE: The entity was deleted.
        ERROR: An error, see ``DataStreamResponse.error``.
        UNKNOWN: A value that this package doesn't have.

    """

    FULL = "full"
    PARTIAL = "partial"
    DELETE = "delete"
    ERROR = "error"
    UNKNOWN = "unknown"

    @classmethod
    def _missing_(cls, value: object) -> MessageType:
        return cls.UNKNOWN


# --- messages ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class DataStreamRequest(Serializable):
    """
    A request to start or stop the messages about entities (``DataStreamReq`` in ``types.go``).

    You can pass it to every method that sends, such as ``client.send``, ``client.subscribe`` and
    ``message.reply``. The option ``heartbeat`` also accepts it.

    Attributes:
        entity_type: The type of the entities.
        keys: The keys of one entity, such as ``{"id": "acme"}``. ``None`` means all of that type.
        action: ``Action.START`` or ``Action.STOP``.

    Raises:
        ConfigurationError: If an attribute is invalid.

    """

    entity_type: EntityType
    keys: Keys | None = None
    action: Action = Action.START

    def __post_init__(self) -> None:
        object.__setattr__(self, "entity_type", _entity_type(self.entity_type))
        object.__setattr__(self, "keys", _checked_keys(self.keys))
        if self.action not in tuple(Action):
            raise ConfigurationError("action: must be 'start' or 'stop'")
        object.__setattr__(self, "action", Action(self.action))

    def to_json(self) -> dict[str, Any]:
        """Return the request as an object for JSON. Clients call this method to encode it."""
        data: dict[str, Any] = {
            "action": self.action.value,
            "entity_type": self.entity_type.value,
        }
        if self.keys:
            data["keys"] = dict(self.keys)
        return {"data": data}

    @classmethod
    def from_json(cls, obj: Any) -> Self:
        """
        Return the request that a server reads from a decoded message.

        A missing action means "start".

        Raises:
            DecodeError: If *obj* isn't a request.

        """
        data = _object(_object(obj, "request").get("data"), "data of a request")
        try:
            action = data.get("action") or Action.START
            return cls(data.get("entity_type", ""), data.get("keys"), action)
        except ConfigurationError as error:
            raise DecodeError(f"request: {error}") from None

    def __repr__(self) -> str:
        return f"<DataStreamRequest {self.action} {self.entity_type}>"


@dataclass(frozen=True, slots=True, repr=False)
class DataStreamErrorMessage:
    """
    The error that the server sends instead of an entity (``DataStreamError`` in ``types.go``).

    Attributes:
        error: The server's text.
        keys: The keys of the refused request. ``None`` if the server sends none.
        entity_type: The entity type of the request, or a str if this package doesn't have it.
            ``None`` if the server sends none.

    """

    error: str
    keys: Keys | None = None
    entity_type: EntityType | str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the ``data`` of an error response."""
        known = {"error": self.error, "keys": self.keys, "entity_type": self.entity_type}
        return {name: value for name, value in known.items() if value is not None}

    @classmethod
    def from_json(cls, obj: Any) -> Self:
        """
        Return the error in the decoded ``data`` of a response.

        Raises:
            DecodeError: If *obj* isn't a dict.

        """
        data = _object(obj, "data of an error")
        entity_type, keys = data.get("entity_type"), data.get("keys")
        return cls(
            error=str(data.get("error", "")),
            keys=keys if isinstance(keys, dict) else None,
            entity_type=_known(entity_type) if isinstance(entity_type, str) else None,
        )

    def __repr__(self) -> str:
        return f"<DataStreamErrorMessage {peer_text(self.error)}>"


@dataclass(frozen=True, slots=True, repr=False)
class DataStreamResponse:
    """
    A message from the server (``DataStreamResp`` in ``types.go``).

    Attributes:
        data: The decoded data, which is a list for FLAGS and a dict for other types. A partial
            message has only what has changed.
        entity_type: The entity type, or a str if this package doesn't have it. It's empty if
            there is none.
        message_type: The kind of ``data``.
        entity_id: The entity that a partial message changes. ``None`` if the server sends none.

    """

    data: Any
    entity_type: EntityType | str
    message_type: MessageType
    entity_id: str | None = None

    @property
    def error(self) -> DataStreamErrorMessage | None:
        """The error, if the message is one. ``None`` otherwise."""
        if self.message_type is not MessageType.ERROR:
            return None
        return DataStreamErrorMessage.from_json(self.data)

    def to_json(self) -> dict[str, Any]:
        """Return the response as an object for JSON."""
        return {
            "data": self.data,
            "entity_type": str(self.entity_type),
            "entity_id": self.entity_id,
            "message_type": self.message_type.value,
        }

    @classmethod
    def from_json(cls, obj: Any) -> Self:
        """
        Return the response in a decoded message, which is ``message.json()``.

        Raises:
            DecodeError: If *obj* isn't a dict.

        """
        found = _object(obj, "response")
        entity_id = found.get("entity_id")
        return cls(
            data=found.get("data"),
            entity_type=_known(found.get("entity_type")),
            message_type=MessageType(found.get("message_type", "")),
            entity_id=None if entity_id is None else str(entity_id),
        )

    def __repr__(self) -> str:
        return f"<DataStreamResponse {self.message_type} {peer_text(self.entity_type)}>"


def _object(obj: Any, what: str) -> dict[str, Any]:
    if isinstance(obj, dict):
        return obj
    raise DecodeError(f"{what}: must be a JSON object, not {type(obj).__name__}")


def _known(entity_type: Any) -> EntityType | str:
    """Return the member, or the server's str if it's new. It's empty if it isn't a str."""
    try:
        return EntityType(entity_type)
    except ValueError:
        return entity_type if isinstance(entity_type, str) else ""


def _entity_type(value: Any) -> EntityType:
    try:
        return EntityType(value)
    except ValueError:
        names = ", ".join(f"EntityType.{each.name}" for each in EntityType)
        raise ConfigurationError(
            f"entity_type: must be one of {names} (given: {type(value).__name__})"
        ) from None


def _checked_keys(keys: Any) -> Keys | None:
    if keys is None:
        return None
    if not isinstance(keys, Mapping):
        raise ConfigurationError(f"keys: must be a mapping (given: {type(keys).__name__})")
    if not all(isinstance(part, str) for pair in keys.items() for part in pair):
        raise ConfigurationError("keys: names and values must be strings")
    return dict(keys)


# --- URL and headers --------------------------------------------------------------------------


@hides_arguments
def stream_url(url: Any) -> str:
    """
    Return the URL of the stream for an HTTP API URL, as Schematic's Go client does.

    ``https://api.x.com`` becomes ``wss://datastream.x.com/datastream``. Only the first label
    ``api`` is replaced, and the port and the query are kept. A ``ws://`` or ``wss://`` URL is
    returned unchanged.

    Raises:
        ConfigurationError: If *url* is invalid. The text doesn't show it.

    """
    if not isinstance(url, str):
        raise ConfigurationError(
            f"url: must be an API URL, or a callable that returns one (given: {type(url).__name__})"
        )
    scheme = url.partition(":")[0].lower()
    if scheme not in (*WEBSOCKET_SCHEMES, *WEBSOCKET_SCHEMES.values()):
        raise ConfigurationError("url: must start with https://, http://, wss:// or ws://")
    # The check of the option ``url`` needs a WebSocket URL.
    candidate = WEBSOCKET_SCHEMES.get(scheme, scheme) + url[len(scheme) :]
    if wrong := check_url(candidate):
        raise ConfigurationError(f"url: {wrong}")
    return _converted(candidate) if scheme in WEBSOCKET_SCHEMES else url


def _converted(candidate: str) -> str:
    parts = urlsplit(candidate)
    first, _, rest = parts.netloc.partition(".")
    host = f"datastream.{rest}" if first.lower() == "api" and rest else parts.netloc
    return parts._replace(netloc=host, path=STREAM_PATH).geturl()


@hides_arguments
def stream_headers(api_key: Any) -> dict[str, str]:
    """
    Return the headers of the opening handshake.

    Raises:
        ConfigurationError: If *api_key* can't be sent in a header. The text doesn't show it.

    """
    if not isinstance(api_key, str) or not api_key.strip():
        raise ConfigurationError(
            f"api_key: must be a non-empty string, or a callable that returns one "
            f"(given: {type(api_key).__name__})"
        )
    headers = {
        "X-Schematic-Api-Key": api_key,
        "X-Schematic-Datastream-Mode": "direct",
        "X-Schematic-Client": "datastream-ws",
        "X-Schematic-Client-Version": __version__,
    }
    if wrong := check_headers(headers):
        raise ConfigurationError(f"api_key: {wrong}")
    return headers


def _options(api_key: Any, url: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of the client. Callables are still called before every attempt."""
    fixed = {"url": _url(url), "headers": _headers(api_key, options.get("headers", {}))}
    return {"route": "entity_type", "max_size": MAX_SIZE} | options | fixed


def _url(url: Any) -> Any:
    return _then(stream_url, url) if callable(url) else stream_url(url)


def _headers(api_key: Any, more: Any) -> Any:
    if callable(more) and not callable(api_key):
        stream_headers(api_key)  # raises at once if the key is invalid
    if callable(api_key) or callable(more):
        return _then(_joined, api_key, more)
    return _joined(api_key, more)


@hides_arguments
def _joined(api_key: Any, more: Any) -> Any:
    """Return the headers of Schematic and of the user, whose headers take precedence."""
    if check_headers(more):
        return more  # the check of the option refuses them
    theirs = {name.lower() for name in more}
    ours = stream_headers(api_key).items()
    return {name: value for name, value in ours if name.lower() not in theirs} | dict(more)


def _then(function: Callable[..., Any], *sources: Any) -> Callable[[], Any]:
    """
    Return a callable that calls the callable sources, and then *function* with all values.

    It's synchronous, because sources may block and the client calls them on a thread. If a source
    returns an awaitable, the callable returns one, too.
    """

    @hides_arguments
    def call() -> Any:
        values = [source() if callable(source) else source for source in sources]
        if any(isinstance(value, Awaitable) for value in values):
            return _awaited(function, Hidden(values))
        return function(*values)

    return call


async def _awaited(function: Callable[..., Any], values: Hidden[list[Any]]) -> Any:
    made = Hidden([await v if isinstance(v, Awaitable) else v for v in values.reveal()])
    return function(*made.reveal())


# --- clients ----------------------------------------------------------------------------------


class EntityDecorators:
    """A mixin that adds ``on_entity`` to a class with ``on_message``."""

    def on_entity(self, *entity_types: EntityType | str) -> Callable[[F], F]:
        """
        Register a handler that gets each message as a :class:`DataStreamResponse`.

        The handler also gets errors about one of the types, see ``response.error``.

        Args:
            *entity_types: The types to handle. Without any, the handler gets every message that is
                a JSON object.

        Raises:
            ConfigurationError: If an entity type is unknown, or the function can't be called with
                one argument.

        """
        if any(callable(each) for each in entity_types):
            raise ConfigurationError(
                "on_entity: requires an entity type, such as @client.on_entity(EntityType.FLAGS)"
            )
        wanted = frozenset(_entity_type(each) for each in entity_types)
        register: Any = self.on_message(  # type: ignore[attr-defined]
            when=lambda message: _is_about(message, wanted)
        )

        def decorate(function: F) -> F:
            check_function("on_entity", function, "response")
            register(_given_response(function))
            return function

        return decorate


def _is_about(message: Message, wanted: frozenset[EntityType]) -> bool:
    try:
        response = DataStreamResponse.from_json(message.json())
        error = response.error
    except DecodeError:
        return False
    named = {response.entity_type} | ({error.entity_type} if error else set())
    return not wanted or not wanted.isdisjoint(named)


def _given_response(function: Callable[..., Any]) -> Callable[[Message], Any]:
    """Return *function* as a handler of messages, with its name, and a coroutine if it is one."""

    @wraps(function)
    def handle(message: Message) -> Any:
        return function(DataStreamResponse.from_json(message.json()))

    @wraps(function)
    async def handle_async(message: Message) -> Any:
        return await function(DataStreamResponse.from_json(message.json()))

    return handle_async if is_coroutine_callable(function) else handle


class Handlers(EntityDecorators, core.Handlers):
    """A :class:`datastream_ws.Handlers` registry with ``on_entity``."""


class Client(EntityDecorators, core.Client):
    """
    A :class:`datastream_ws.Client` for the Schematic DataStream.

    The default of the option ``route`` is ``"entity_type"``, so ``on_message("rulesengine.Flags")``
    also works.

    Args:
        api_key: The API key. A callable, sync or async, returns it and is called before every
            attempt.
        url: The API URL, see :func:`stream_url`, or a callable that returns it.
        **options: See :class:`datastream_ws.ClientOptions`. ``headers`` are sent in addition to
            those of Schematic.

    Raises:
        ConfigurationError: If an option is unknown or invalid.

    """

    @hides_arguments
    def __init__(self, api_key: Source, url: Source = API_URL, **options: Any) -> None:
        super().__init__(**_options(api_key, url, options))

    def start_entity(self, entity_type: EntityType | str, keys: Keys | None = None) -> None:
        """
        Request an entity now, and again on every connection, before ``on_ready``.

        It's thread-safe and never blocks. You can call it before ``start()``.

        Args:
            entity_type: The type of the entity.
            keys: The keys of the entity, such as ``{"id": "acme"}``. ``None`` means all of that
                type.

        Raises:
            ConfigurationError: If an argument is invalid.

        """
        self.subscribe(*_subscription(entity_type, keys))

    def stop_entity(self, entity_type: EntityType | str, keys: Keys | None = None) -> None:
        """
        Stop an entity that :meth:`start_entity` has requested.

        It's thread-safe and never blocks. Without a request with the same values it has no effect.
        """
        self.unsubscribe(_subscription(entity_type, keys)[1])


class AsyncClient(EntityDecorators, core.AsyncClient):
    """
    A :class:`datastream_ws.AsyncClient` for the Schematic DataStream.

    Args:
        api_key: The API key. A callable, sync or async, returns it and is called before every
            attempt.
        url: The API URL, see :func:`stream_url`, or a callable that returns it.
        **options: See :class:`datastream_ws.ClientOptions`. ``headers`` are sent in addition to
            those of Schematic.

    Raises:
        ConfigurationError: If an option is unknown or invalid.

    """

    @hides_arguments
    def __init__(self, api_key: Source, url: Source = API_URL, **options: Any) -> None:
        super().__init__(**_options(api_key, url, options))

    async def start_entity(self, entity_type: EntityType | str, keys: Keys | None = None) -> None:
        """
        Request an entity now, and again on every connection, before ``on_ready``.

        It never waits. You can call it before ``start()``.

        Args:
            entity_type: The type of the entity.
            keys: The keys of the entity, such as ``{"id": "acme"}``. ``None`` means all of that
                type.

        Raises:
            ConfigurationError: If an argument is invalid.

        """
        await self.subscribe(*_subscription(entity_type, keys))

    async def stop_entity(self, entity_type: EntityType | str, keys: Keys | None = None) -> None:
        """
        Stop an entity that :meth:`start_entity` has requested.

        It never waits. Without a request with the same values it has no effect.
        """
        await self.unsubscribe(_subscription(entity_type, keys)[1])


def _subscription(
    entity_type: EntityType | str, keys: Keys | None
) -> tuple[dict[str, Any], tuple[Any, ...], dict[str, Any]]:
    """Return the message that starts an entity, its key, and the message that stops it."""
    start = DataStreamRequest(entity_type, keys)  # type: ignore[arg-type]  # it converts a str
    stop = DataStreamRequest(start.entity_type, start.keys, Action.STOP)
    name = (start.entity_type, *sorted((start.keys or {}).items()))
    return start.to_json(), name, stop.to_json()
