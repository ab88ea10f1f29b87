"""JSON codecs: what ``message.json()`` and ``send`` use."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, Protocol, runtime_checkable

from .exceptions import ConfigurationError, DecodeError

__all__ = ["Codec", "codec_for", "converter_for"]


@runtime_checkable
class Codec(Protocol):
    """Turns payloads into objects and back; called from any thread."""

    def decode(self, data: str | bytes) -> Any: ...

    def encode(self, obj: Any) -> str | bytes:
        """Return str for a text frame, bytes for a binary one."""
        ...


class JsonCodec:
    """The standard library's."""

    def __init__(self) -> None:
        self._raw_decode = json.JSONDecoder().raw_decode

    def decode(self, data: str | bytes) -> Any:
        """As ``json.loads``, which looks for white space around every payload first."""
        if isinstance(data, str) and data[:1] in "{[":
            obj, end = self._raw_decode(data)
            if end == len(data):
                return obj
        return json.loads(data)

    def encode(self, obj: Any) -> str:
        return json.dumps(obj, separators=(",", ":"), ensure_ascii=False, default=_plain)


def _plain(obj: Any) -> Any:
    """Let dataclasses be sent with every codec, as orjson and msgspec do by themselves."""
    if is_dataclass(obj) and not isinstance(obj, type):
        return {field.name: getattr(obj, field.name) for field in fields(obj)}
    raise TypeError(f"{type(obj).__name__} is not JSON serializable")


class OrjsonCodec:
    """orjson's; of the extra ``fast``."""

    def __init__(self, orjson: Any) -> None:
        self.decode = orjson.loads
        self._dumps = orjson.dumps

    def encode(self, obj: Any) -> str:
        text: bytes = self._dumps(obj)
        return text.decode()


class MsgspecCodec:
    """msgspec's; of the extra ``fast``."""

    def __init__(self, msgspec: Any) -> None:
        self._msgspec = msgspec
        self.decode = msgspec.json.Decoder().decode
        self._encode = msgspec.json.encode

    def encode(self, obj: Any) -> str:
        text: bytes = self._encode(obj)
        return text.decode()

    def typed(self, type_: Any) -> Callable[[str | bytes], Any]:
        """Return a decoder straight from a payload to *type_*."""
        decode: Callable[[str | bytes], Any] = self._msgspec.json.Decoder(type_).decode
        return decode


def codec_for(name: str | Codec) -> Codec:
    """
    Return the codec an option names.

    Raises:
        ConfigurationError: If it is unknown, or its package is not installed.

    """
    if not isinstance(name, str):
        return name
    if name == "json":
        return JsonCodec()
    makers: dict[str, Callable[[Any], Codec]] = {"orjson": OrjsonCodec, "msgspec": MsgspecCodec}
    if name not in makers:
        raise ConfigurationError(f"codec: no codec is named {name!r}; json, orjson, msgspec are")
    return makers[name](_imported(name))


def converter_for(type_: Any, codec: Codec) -> Callable[[str | bytes], Any]:
    """
    Return what turns a payload into an instance of *type_*, a dataclass or ``msgspec.Struct``.

    A dataclass needs no other package: fields are taken by name, unknown ones ignored. With
    msgspec installed it does the work, types checked.

    Raises:
        ConfigurationError: If *type_* is neither.

    """
    if isinstance(codec, MsgspecCodec):
        return codec.typed(type_)
    if hasattr(type_, "__struct_fields__"):
        return MsgspecCodec(_imported("msgspec")).typed(type_)
    fields = getattr(type_, "__dataclass_fields__", None)
    if fields is None or not isinstance(type_, type):
        raise ConfigurationError("decode_as: must be a dataclass or a msgspec.Struct")
    return _dataclass_converter(type_, frozenset(f for f in fields if fields[f].init), codec)


def _dataclass_converter(
    type_: type, names: frozenset[str], codec: Codec
) -> Callable[[str | bytes], Any]:
    def convert(data: str | bytes) -> Any:
        obj = codec.decode(data)
        if not isinstance(obj, dict):
            raise DecodeError(f"{type_.__name__} needs a JSON object, not {type(obj).__name__}")
        return type_(**{name: value for name, value in obj.items() if name in names})

    return convert


def _imported(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError:
        raise ConfigurationError(
            f"{package} is not installed: pip install 'datastream-ws[fast]'"
        ) from None
