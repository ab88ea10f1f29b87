"""What turns payloads into objects and back: json, orjson, msgspec, or the user's own."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import importlib.util
import json
import pickle
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastream_ws import (
    ClientOptions,
    Codec,
    ConfigurationError,
    DecodeError,
    EncodeError,
    Handlers,
    Message,
)
from datastream_ws.codecs import JsonCodec, codec_for, frame_of
from datastream_ws.handlers import Handler
from datastream_ws.messages import Origin

NAMES = ["json", "orjson", "msgspec"]
DEEP = 200_000


def installed(package: str) -> Any:
    """Import a package of the extra `fast`, or skip with its name."""
    return pytest.importorskip(package, reason=f"{package} is not installed")


@pytest.fixture(params=NAMES)
def codec(request: pytest.FixtureRequest) -> Codec:
    """Each codec that has a name."""
    installed(request.param)
    return codec_for(request.param)


def decoded(decode: Callable[[str | bytes], Any], data: str | bytes) -> Any:
    """Decode as ``message.json()`` does."""
    codec: Any = SimpleNamespace(decode=decode, encode=str)
    return Message(data, Origin("default", 1, 1, codec, "type"), 1, 0.0).json()


def converter_for(type_: type, codec: Any) -> Callable[[str | bytes], Any]:
    """Return how a handler with ``decode_as`` decodes a payload."""
    handler, origin = Handler(print, False, decode_as=type_), Origin("s", 1, 1, codec, "type")
    return lambda data: handler.argument(Message(data, origin, 1, 0.0))


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


@dataclasses.dataclass
class Line:
    start: Point
    ends: list[Point] = dataclasses.field(default_factory=list)


# --- in and out -------------------------------------------------------------------------------

PAYLOADS: list[tuple[str | bytes, Any]] = [
    ('{"type":"a","n":1.5,"l":[1,null,true]}', {"type": "a", "n": 1.5, "l": [1, None, True]}),
    (b'{"a":"b"}', {"a": "b"}),
    (' \n{"a": 1}\r\n', {"a": 1}),
    ("[1]", [1]),
    ("[1] ", [1]),
    ("5", 5),
    ('"text"', "text"),
    ("null", None),
    ("{}", {}),
    ('"\\ud83d\\ude00 ü"', "😀 ü"),
    ('{"ü":"😀"}'.encode(), {"ü": "😀"}),
]


@pytest.mark.parametrize(("payload", "expected"), PAYLOADS)
def test_decode(codec: Codec, payload: str | bytes, expected: Any) -> None:
    """Text and binary frames, white space around them, and what is no object."""
    assert codec.decode(payload) == expected


BAD = [
    "",
    " ",
    "{",
    '{"a":1',
    "[1]]",
    '{"a":1}{"b":2}',
    "{]",
    "nul",
    b"\xff\xfe",
    b'"\xff"',
    "\x00",
]


@pytest.mark.fault("P17")
@pytest.mark.parametrize("payload", BAD, ids=repr)
def test_undecodable(codec: Codec, payload: str | bytes) -> None:
    """Whatever a codec raises becomes a DecodeError, which is a ValueError, too."""
    with pytest.raises(DecodeError) as caught:
        decoded(codec.decode, payload)
    assert isinstance(caught.value, ValueError)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(("left", "right"), ["[]", "{}"])
def test_deep_nesting(codec: Codec, left: str, right: str) -> None:
    """A hundred thousand brackets are an error of the peer's, not the end of this process."""
    opening = '{"a":' if left == "{" else left
    for payload in (opening * DEEP, opening * DEEP + "1" + right * DEEP):
        with pytest.raises(DecodeError):
            decoded(codec.decode, payload)


@pytest.mark.parametrize("obj", [{"a": [1, 2.5, None, True, "ü😀"]}, [], {}, "text", 5, None])
def test_encode(codec: Codec, obj: Any) -> None:
    """A text frame of compact JSON, characters as they are."""
    text = codec.encode(obj)
    assert isinstance(text, str)
    assert text == json.dumps(obj, separators=(",", ":"), ensure_ascii=False)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@pytest.mark.parametrize("name", NAMES)
@given(JSON, st.sampled_from(["", " ", "\n\t"]))
def test_round_trip(name: str, obj: Any, space: str) -> None:
    """What one codec writes every codec reads."""
    installed(name)
    text = codec_for(name).encode(obj)
    assert isinstance(text, str)
    padded = space + text + space
    for other in filter(importlib.util.find_spec, NAMES):
        assert codec_for(other).decode(padded) == obj
        assert codec_for(other).decode(padded.encode()) == obj


@given(st.text('{}[]":,01etrufalsn \\', max_size=20) | st.text(max_size=20))
def test_json_codec_reads_what_json_reads(text: str) -> None:
    """The short cut for objects and arrays changes neither results nor what is refused."""
    try:
        expected = json.loads(text)
    except json.JSONDecodeError:
        with pytest.raises(json.JSONDecodeError):
            JsonCodec().decode(text)
    else:
        assert repr(JsonCodec().decode(text)) == repr(expected)


def test_dataclasses_can_be_sent(codec: Codec) -> None:
    """With every codec, nested ones too."""
    line = Line(Point(1), [Point(2, 3)])
    assert json.loads(codec.encode(line)) == {"start": {"x": 1, "y": 0}, "ends": [{"x": 2, "y": 3}]}


@pytest.mark.parametrize("obj", [object(), {"a": {1, 2}.__iter__()}, Point])
def test_what_cannot_be_encoded(codec: Codec, obj: Any) -> None:
    """The codec's own TypeError reaches the caller of send()."""
    with pytest.raises(TypeError):
        codec.encode(obj)


# --- no payload in the text -------------------------------------------------------------------

SECRET = "hunter2"


@pytest.mark.parametrize(
    "payload",
    [
        SECRET,
        f'"{SECRET}',
        f'{{"{SECRET}": {SECRET}}}',
        f"[{SECRET!r}]",
        f'{{"a":1}}{SECRET}',
        f"{SECRET}\xff".encode("latin-1"),
    ],
)
def test_error_shows_no_payload(codec: Codec, payload: str | bytes) -> None:
    """It says how much there was and what is wrong; payloads may be secrets."""
    with pytest.raises(
        DecodeError, match=f"payload of {len(payload)} (characters|bytes)"
    ) as caught:
        decoded(codec.decode, payload)
    assert SECRET not in f"{caught.value!r} {caught.value.__cause__!r}"
    assert caught.value.__suppress_context__


def test_error_of_the_users_codec_shows_no_payload() -> None:
    """Nobody knows what its text holds: the type has to do."""

    def decode(data: str | bytes) -> Any:
        raise LookupError(f"cannot read {data!r}")

    with pytest.raises(DecodeError) as caught:
        decoded(decode, SECRET)
    assert str(caught.value) == "payload of 7 characters cannot be decoded: LookupError"


def test_error_of_a_dataclass_shows_no_payload() -> None:
    """Nor what its __post_init__ says."""

    @dataclasses.dataclass
    class Picky:
        key: str

        def __post_init__(self) -> None:
            raise ValueError(f"bad key {self.key}")

    with pytest.raises(DecodeError) as caught:
        decoded(converter_for(Picky, JsonCodec()), f'{{"key":"{SECRET}"}}')
    assert SECRET not in str(caught.value)


def test_error_says_where_json_breaks() -> None:
    """A position is no payload."""
    with pytest.raises(DecodeError, match=r"line 1 column 2 \(char 1\)"):
        decoded(JsonCodec().decode, "[x]")


# --- the option -------------------------------------------------------------------------------


def test_codec_object() -> None:
    """Anything with decode() and encode() is used as it is, also msgspec's own modules."""
    own = SimpleNamespace(decode=lambda data: ["decoded", data], encode=lambda obj: b"encoded")
    assert codec_for(own) is own
    assert ClientOptions("ws://localhost", codec=own).codec is own
    assert isinstance(own, Codec)


def test_module_as_codec() -> None:
    """msgspec.msgpack has decode() and encode()."""
    msgpack = installed("msgspec").msgpack
    codec: Any = ClientOptions("ws://localhost", codec=msgpack).codec
    assert codec.decode(codec.encode({"a": 1})) == {"a": 1}


@pytest.mark.parametrize("name", ["orjson", "msgspec"])
def test_missing_extra(monkeypatch: pytest.MonkeyPatch, name: Any) -> None:
    """Said when the options are made, with the cure; not at the first message."""
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigurationError, match=rf"^codec: {name} .*datastream-ws\[fast\]"):
        ClientOptions("ws://localhost", codec=name)


def test_unknown_codec() -> None:
    """Named, without what was given instead."""
    with pytest.raises(ConfigurationError, match=r"^codec: must be 'json', 'orjson' or 'msgspec'"):
        codec_for(SECRET)


# --- decode_as --------------------------------------------------------------------------------


def test_dataclass(codec: Codec) -> None:
    """Fields by name, defaults for what is missing, unknown ones ignored; with every codec."""
    convert = converter_for(Point, codec)
    assert convert('{"x":1,"y":2}') == Point(1, 2)
    assert convert(b'{"x":1,"unknown":[]}') == Point(1, 0)


@pytest.mark.parametrize("payload", ['{"y":1}', "{}", "[1,2]", "5", "null", "{", ""])
def test_what_is_no_such_dataclass(codec: Codec, payload: str) -> None:
    """A required field is missing, or it is no object at all."""
    with pytest.raises(DecodeError):
        decoded(converter_for(Point, codec), payload)


def test_missing_fields_are_named() -> None:
    """They are ours, not the peer's."""

    @dataclasses.dataclass
    class Many:
        b: int
        a: int
        c: int = 0

    with pytest.raises(DecodeError, match="Many requires a, b"):
        converter_for(Many, JsonCodec())('{"c":1}')


def test_all_kinds_of_fields() -> None:
    """What __init__ takes counts: no class variables, no computed fields, but InitVars."""

    @dataclasses.dataclass
    class Odd:
        kind: ClassVar[str] = "odd"
        a: int
        computed: int = dataclasses.field(init=False, default=7)
        seed: dataclasses.InitVar[int] = 0
        b: int = dataclasses.field(kw_only=True)

        def __post_init__(self, seed: int) -> None:
            self.computed += seed

    payload = '{"kind":"x","a":1,"computed":5,"seed":2,"b":3,"self":4}'
    made = converter_for(Odd, JsonCodec())(payload)
    assert (made.kind, made.a, made.computed, made.b) == ("odd", 1, 9, 3)


def test_struct(codec: Codec) -> None:
    """A msgspec.Struct is decoded and checked by msgspec, whatever the codec."""
    msgspec = installed("msgspec")
    flag = msgspec.defstruct("Flag", [("key", str), ("value", bool, False)])
    convert = converter_for(flag, codec)
    assert convert('{"key":"dark","value":true,"more":1}') == flag("dark", True)
    with pytest.raises(DecodeError, match=r"Expected `str`, got `int` - at `\$.key`"):
        decoded(convert, '{"key":5}')
    with pytest.raises(DecodeError, match="missing required field `key`"):
        decoded(convert, "{}")


def test_struct_errors_show_no_values() -> None:
    """msgspec quotes the values of enums; that text is not shown."""
    msgspec = installed("msgspec")
    colour = enum.Enum("colour", {"RED": "red"})
    shirt = msgspec.defstruct("Shirt", [("colour", colour)])
    with pytest.raises(DecodeError) as caught:
        decoded(converter_for(shirt, codec_for("json")), f'{{"colour":"{SECRET}"}}')
    assert SECRET not in str(caught.value)
    assert "ValidationError" in str(caught.value)


def test_struct_with_a_codec_that_is_no_json() -> None:
    """The user's codec decodes, msgspec makes the Struct of that."""
    msgspec = installed("msgspec")
    flag = msgspec.defstruct("Flag", [("key", str)])
    assert converter_for(flag, msgspec.msgpack)(msgspec.msgpack.encode({"key": "x"})) == flag("x")


def test_msgspec_codec_checks_dataclasses() -> None:
    """The types of fields are looked at with this codec only."""
    installed("msgspec")
    with pytest.raises(DecodeError, match="Expected `int`"):
        decoded(converter_for(Point, codec_for("msgspec")), '{"x":"1"}')
    assert decoded(converter_for(Point, JsonCodec()), '{"x":"1"}').x == "1"


@pytest.mark.parametrize("type_", [int, dict, "Point", Point(1), list[Point], object])
def test_decode_as_what_is_neither(type_: Any) -> None:
    """Refused at registration."""
    with pytest.raises(ConfigurationError, match=r"^decode_as: "):
        Handlers().on_message(decode_as=type_)


def test_decode_as_struct_without_msgspec(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something that looks like a Struct needs its package; said at registration."""
    monkeypatch.setitem(sys.modules, "msgspec", None)
    struct = type("Struct", (), {"__struct_fields__": ("key",)})
    with pytest.raises(ConfigurationError, match=r"^decode_as: msgspec is not installed"):
        Handlers().on_message("a", decode_as=struct)


# --- NaN --------------------------------------------------------------------------------------


@dataclasses.dataclass
class Measured:
    value: float


@pytest.mark.parametrize(
    "obj",
    [
        float("nan"),
        {"x": float("inf"), "y": None},
        [[{"x": [-float("inf")]}], None],
        Measured(float("nan")),
        {"m": [Measured(float("nan"))]},
        (1.0, float("nan")),
    ],
    ids=repr,
)
def test_numbers_that_json_has_not_are_refused(codec: Codec, obj: Any) -> None:
    """With each codec: json would write them, orjson and msgspec null in their place."""
    with pytest.raises(EncodeError, match=r"RFC 8259.*Send None instead"):
        codec.encode(obj)
    with pytest.raises(ValueError, match="NaN"):
        frame_of(obj, codec)


def test_null_is_sent(codec: Codec) -> None:
    assert codec.encode({"x": None, "text": "null", "n": 1.5}).count("null") == 2  # type: ignore[arg-type]


def test_nan_in_a_struct_is_refused() -> None:
    msgspec = installed("msgspec")
    made = msgspec.defstruct("Made", [("value", float)])
    with pytest.raises(EncodeError):
        codec_for("msgspec").encode([made(float("nan"))])


def test_nan_is_read_where_the_decoder_reads_it() -> None:
    """Lenient with what others send, as the json module is."""
    found = decoded(JsonCodec().decode, '{"x": NaN, "y": Infinity}')
    assert repr(found) == "{'x': nan, 'y': inf}"


def test_an_object_that_holds_itself_is_still_a_value_error() -> None:
    around: list[Any] = []
    around.append(around)
    with pytest.raises(ValueError, match="Circular") as caught:
        JsonCodec().encode(around)
    assert not isinstance(caught.value, EncodeError)


def test_codecs_are_pickled_by_name(codec: Codec) -> None:
    """So that what has one, a message or options, is equal to its copy."""
    assert pickle.loads(pickle.dumps(codec)) is codec
