"""The JSON codecs that ``message.json()`` and ``send()`` use."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from typing import Any, Protocol, runtime_checkable

from .base_errors import ConfigurationError, DecodeError, EncodeError
from .redaction import peer_text

__all__ = [
    "Codec",
    "Serializable",
    "codec_for",
    "field_finder",
    "object_converter",
    "shown_failure",
    "straight_converter",
]


@runtime_checkable
class Codec(Protocol):
    """
    An object that decodes payloads and encodes objects. Its methods run in any thread.

    If the messages of a connection depend on each other, as in a compressed stream, a codec may
    also have ``unpacker()``. It's called for each new connection and returns a function. That
    function gets every received payload in order, on the loop's thread. It returns the str or bytes
    that ``decode`` and the handlers get, or ``None`` while the message is incomplete. If it raises
    an exception, the connection is replaced.
    """

    def decode(self, data: str | bytes) -> Any:
        """Return the object that a payload encodes. It may raise any exception."""
        ...

    def encode(self, obj: Any) -> str | bytes:
        """Return the payload of an object, a str for a text frame or bytes for a binary frame."""
        ...


class JsonCodec:
    """The codec of the standard library. It decodes NaN and Infinity, and refuses to send them."""

    def __init__(self) -> None:
        self._scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]  # typeshed lacks it

    def decode(self, data: str | bytes) -> Any:
        """Decode as ``json.loads`` does, but faster if there is no white space around it."""
        if isinstance(data, str) and data[:1] in "{[":
            try:
                obj, end = self._scan(data, 0)
                if end == len(data):
                    return obj
            except StopIteration:  # a value is missing; json.loads() reports where
                pass
        return json.loads(data)

    def encode(self, obj: Any) -> str:
        try:
            return json.dumps(
                obj, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_plain
            )
        except ValueError:  # NaN, Infinity or a circular reference
            _refuse_nan(obj)
            raise

    def __reduce__(self) -> tuple[Any, ...]:
        return codec_for, ("json",)


JSON = JsonCodec()


def _plain(obj: Any) -> Any:
    """Convert a dataclass to a dict. orjson and msgspec have this built in."""
    if is_dataclass(obj) and not isinstance(obj, type):
        return {field.name: getattr(obj, field.name) for field in fields(obj)}
    raise TypeError(f"{type(obj).__name__} is not JSON serializable")


def _refuse_nan(obj: Any) -> None:
    """Raise EncodeError if *obj* contains NaN or Infinity (RFC 8259 section 6)."""
    seen: set[int] = set()
    rest = [obj]
    while rest:
        each = rest.pop()
        if isinstance(each, float) and not math.isfinite(each):
            raise EncodeError(
                "NaN and Infinity cannot be sent: JSON has neither (RFC 8259). Send None instead."
            )
        if id(each) not in seen:
            seen.add(id(each))
            rest += _parts(each)


def _parts(obj: Any) -> Iterable[Any]:
    if isinstance(obj, dict):
        return (*obj, *obj.values())
    if isinstance(obj, list | tuple | set | frozenset):
        return obj
    names = getattr(type(obj), "__struct_fields__", ())
    if is_dataclass(obj):
        names = [field.name for field in fields(obj)]
    return [getattr(obj, name, None) for name in names]


def _without_nan(obj: Any, encoded: bytes) -> str:
    """Return *encoded* as text. orjson and msgspec write null for NaN and Infinity."""
    if b"null" in encoded:
        _refuse_nan(obj)
    return encoded.decode()


class OrjsonCodec:
    """The codec that uses orjson (extra ``fast``)."""

    def __init__(self, orjson: Any) -> None:
        self.decode = orjson.loads
        self._dumps = orjson.dumps

    def encode(self, obj: Any) -> str:
        return _without_nan(obj, self._dumps(obj))

    def __reduce__(self) -> tuple[Any, ...]:
        return codec_for, ("orjson",)


class MsgspecCodec:
    """The codec that uses msgspec (extra ``fast``)."""

    def __init__(self, msgspec: Any) -> None:
        self._msgspec = msgspec
        self.decode = msgspec.json.Decoder().decode
        self._encode = msgspec.json.encode

    def encode(self, obj: Any) -> str:
        return _without_nan(obj, self._encode(obj))

    def __reduce__(self) -> tuple[Any, ...]:
        return codec_for, ("msgspec",)

    def typed(self, type_: Any) -> Callable[[str | bytes], Any]:
        """Return a function that decodes a payload into a *type_* in one step."""
        decode: Callable[[str | bytes], Any] = self._msgspec.json.Decoder(type_).decode
        return decode


def codec_for(name: str | Codec) -> Codec:
    """
    Return the codec for a value of the option ``codec``.

    Raises:
        ConfigurationError: If the name is unknown, or its package isn't installed.

    """
    if not isinstance(name, str):
        return name
    if name == "json":
        return JSON
    makers: dict[str, Callable[[Any], Codec]] = {"orjson": OrjsonCodec, "msgspec": MsgspecCodec}
    if name not in makers:
        raise ConfigurationError("codec: must be 'json', 'orjson' or 'msgspec'")
    return _made(makers[name], _imported(name, "codec"))


@functools.cache
def _made(maker: Callable[[Any], Codec], package: Any) -> Codec:
    """Make each codec once, so that a pickled codec is the same object after unpickling."""
    return maker(package)


class Serializable:
    """The base class of objects that are encoded as the value that ``to_json()`` returns."""

    __slots__ = ()

    def to_json(self) -> Any:
        """Return an object for the codec."""
        raise NotImplementedError


def frame_of(obj: Any, codec: str | Codec) -> tuple[bool, bytes]:
    """
    Return whether an outgoing message is a text frame, and its payload.

    A str is a text frame, and bytes are a binary frame. The codec encodes any other object.
    """
    if not isinstance(obj, str | bytes | bytearray | memoryview):
        if isinstance(obj, Serializable):
            obj = obj.to_json()
        obj = codec_for(codec).encode(obj)
    return (True, obj.encode()) if isinstance(obj, str) else (False, bytes(obj))


def straight_converter(type_: Any, codec: Codec) -> Callable[[str | bytes], Any] | None:
    """
    Return a function that decodes a payload into a *type_* in one step, or ``None``.

    Only msgspec can do this, and it also checks the types. ``None`` is returned for other codecs,
    except for a ``msgspec.Struct`` with a JSON codec.
    """
    if isinstance(codec, MsgspecCodec):
        return codec.typed(type_)
    if hasattr(type_, "__struct_fields__") and isinstance(codec, JsonCodec | OrjsonCodec):
        return MsgspecCodec(_imported("msgspec", "decode_as")).typed(type_)
    return None


def object_converter(type_: Any) -> Callable[[Any], Any]:
    """
    Return a function that converts a decoded payload into a *type_*.

    msgspec checks the types of a ``msgspec.Struct``. The fields of a dataclass are set by name,
    without checking their types. Unknown fields are ignored.

    Raises:
        ConfigurationError: If *type_* is neither, or msgspec isn't installed.

    """
    is_struct = hasattr(type_, "__struct_fields__")
    if not isinstance(type_, type) or not (is_struct or is_dataclass(type_)):
        raise ConfigurationError("decode_as: must be a dataclass or a msgspec.Struct")
    if not is_struct:
        return _dataclass_converter(type_)
    msgspec = _imported("msgspec", "decode_as")
    return lambda obj: msgspec.convert(obj, type_)


def _dataclass_converter(type_: type) -> Callable[[Any], Any]:
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(type_).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    required = {name for name, each in parameters.items() if each.default is each.empty}

    def convert(obj: Any) -> Any:
        if not isinstance(obj, dict):
            raise DecodeError(f"{type_.__name__} requires a JSON object, not {type(obj).__name__}")
        if missing := required - obj.keys():
            raise DecodeError(f"{type_.__name__} requires {', '.join(sorted(missing))}")
        return type_(**{name: obj[name] for name in parameters if name in obj})

    return convert


def field_finder(codec: Codec, name: str) -> Callable[[str | bytes], Any] | None:
    """
    Return a function that decodes only one field of a JSON object, or ``None`` without msgspec.

    The function raises an exception if the payload isn't such an object. Then decode it fully.
    """
    is_json = isinstance(codec, JsonCodec | OrjsonCodec | MsgspecCodec)
    return _msgspec_finder(name) if is_json else None


@functools.lru_cache(64)
def _msgspec_finder(name: str) -> Callable[[str | bytes], Any] | None:
    try:
        msgspec = importlib.import_module("msgspec")
    except ImportError:
        return None
    only = msgspec.defstruct("Only", [("field", Any, None)], rename={"field": name})
    decode = msgspec.json.Decoder(only).decode
    return lambda data: decode(data).field


def shown_failure(error: Exception) -> str:
    """
    Return the part of a decoder's error that is safe to show, because its text may quote data.

    JSON decoders report the position and not the content. msgspec's "Expected `int`, got `str`
    - at `$.x`" and "missing required field" name the user's types. Its other texts quote values.
    """
    text = str(error)
    package = type(error).__module__.partition(".")[0]
    if isinstance(error, json.JSONDecodeError) or (
        package == "msgspec"
        and text.startswith(("JSON is malformed", "Expected", "Object missing", "Input data"))
    ):
        return peer_text(text)
    return type(error).__name__


def _imported(package: str, option: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError:
        raise ConfigurationError(
            f"{option}: {package} is not installed. Run: pip install 'datastream-ws[fast]'"
        ) from None
