"""Redaction of URLs, headers and texts from the server, before they are shown."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast
from urllib.parse import urlsplit

from .base_errors import ConfigurationError

__all__ = ["Hidden", "escaped", "hides_arguments", "peer_text", "shown_url", "shown_urls"]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

UNREADABLE = "(unreadable URL)"
SHOWN_TEXT = 200  # characters of a text from the server that are shown


class HiddenHeaders(dict[str, str]):
    """
    Headers whose ``repr`` hides the values.

    Error trackers record the local variables of every frame in a traceback.
    """

    def __repr__(self) -> str:
        return f"<headers: {', '.join(self)}>"


class Hidden(Generic[T]):
    """
    A secret whose ``repr`` hides it.

    Error trackers look into mappings, sequences and dataclasses among the local variables of each
    frame. For any other object they record the ``repr``.
    """

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def reveal(self) -> T:
        """Return the value. Use it in the same expression, so that no variable holds it."""
        return self._value

    def __repr__(self) -> str:
        return "(hidden)"


def hides_arguments(function: F) -> F:
    """
    Remove the frames of *function* from the traceback of an exception that it raises.

    Use it for functions with secret arguments, because error trackers record the arguments of each
    frame.
    """

    @functools.wraps(function)
    def hidden(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            failure = error
        args, kwargs = (), {}
        try:
            raise _without_frames(failure)
        finally:
            del failure  # it refers to this frame

    return cast("F", hidden)


def _without_frames(error: Exception) -> Exception:
    """Remove the frames of *error*, and of the ConfigurationErrors that caused it."""
    each: BaseException | None = error
    while each is not None:
        each.__traceback__ = None
        each = each.__cause__ if isinstance(each.__cause__, ConfigurationError) else None
    if error.__cause__ is None:
        error.__context__ = None
    return error


def shown_url(url: str) -> str:
    """Return *url* without user information, query and fragment."""
    if url.startswith("ws+unix:"):
        return peer_text(url.partition("?")[0])
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port is not None else ""
    except ValueError:
        return UNREADABLE
    if not parts.scheme or not host:  # any part of it could be a secret
        return UNREADABLE
    if ":" in host:
        host = f"[{host}]"
    return peer_text(f"{parts.scheme}://{host}{port}{parts.path}")


def shown_urls(urls: object) -> str:
    """Return a value of the option ``url``, valid or not, without secrets."""
    if callable(urls):
        return "(callable)"
    if isinstance(urls, str):
        return shown_url(urls)
    if not isinstance(urls, list | tuple):
        return UNREADABLE
    return ", ".join(shown_url(url) if isinstance(url, str) else UNREADABLE for url in urls)


def peer_text(text: object) -> str:
    """Return *text* on one line, with control characters escaped, cut to 200 characters."""
    try:
        line = str(text)[: SHOWN_TEXT + 1]
    except Exception:  # for example, __str__ of a user's exception fails
        line = f"({type(text).__name__})"
    line = escaped(line)
    return line if len(line) <= SHOWN_TEXT else line[: SHOWN_TEXT - 1] + "…"


def escaped(text: str) -> str:
    """Return *text* with line breaks and other control characters escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
