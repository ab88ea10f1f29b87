"""What may be shown of a URL, a header or a peer's text."""

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
SHOWN_TEXT = 200  # characters of a peer's text that logs, errors and pages show


class HiddenHeaders(dict[str, str]):
    """
    Headers whose ``repr`` names them and shows no value.

    Tools that collect errors show the local variables of every frame in a traceback.
    """

    def __repr__(self) -> str:
        return f"<headers: {', '.join(self)}>"


class Hidden(Generic[T]):
    """
    A value that nothing shows by accident.

    Tools that collect errors walk mappings, sequences and dataclasses among the local variables
    of each frame; of anything else they show the ``repr``.
    """

    __slots__ = ("_shown", "_value")

    def __init__(self, value: T, shown: str = "(hidden)") -> None:
        self._value = value
        self._shown = shown

    def reveal(self) -> T:
        """Return the value, to be used in the same expression."""
        return self._value

    def __repr__(self) -> str:
        return getattr(self, "_shown", "(hidden)")  # of one half made, in the frames of an error


def hides_arguments(function: F) -> F:
    """
    Have an error leave *function* without the frames it came through.

    For functions that are given secrets before anything can hide them: tools that collect errors
    show the arguments of each frame.
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
            del failure  # it holds this frame

    return cast("F", hidden)


def _without_frames(error: Exception) -> Exception:
    """Drop the frames of *error*, and of those of our errors that it was made of."""
    each: BaseException | None = error
    while each is not None:
        each.__traceback__ = None
        each = each.__cause__ if isinstance(each.__cause__, ConfigurationError) else None
    if error.__cause__ is None:
        error.__context__ = None
    return error


def shown_url(url: str) -> str:
    """Return scheme, host, port and path of *url*: no userinfo, query or fragment."""
    if url.startswith("ws+unix:"):
        return peer_text(url.partition("?")[0])
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port is not None else ""
    except ValueError:
        return UNREADABLE
    if not parts.scheme or not host:  # whatever it is, nobody knows which part is a secret
        return UNREADABLE
    if ":" in host:
        host = f"[{host}]"
    return peer_text(f"{parts.scheme}://{host}{port}{parts.path}")


def shown_urls(urls: object) -> str:
    """Return what the option ``url`` may show, whatever was given."""
    if callable(urls):
        return "(callable)"
    if isinstance(urls, str):
        return shown_url(urls)
    if not isinstance(urls, list | tuple):
        return UNREADABLE
    return ", ".join(shown_url(url) if isinstance(url, str) else UNREADABLE for url in urls)


def peer_text(text: object) -> str:
    """Return *text* on one line, control characters escaped, cut to 200 characters."""
    try:
        line = str(text)[: SHOWN_TEXT + 1]
    except Exception:  # of a user's exception: that it cannot be shown must not hide it
        line = f"({type(text).__name__})"
    line = escaped(line)
    return line if len(line) <= SHOWN_TEXT else line[: SHOWN_TEXT - 1] + "…"


def escaped(text: str) -> str:
    """Return *text* with everything escaped that could drive a terminal, line breaks too."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
