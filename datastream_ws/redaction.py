"""What may be shown of a URL, a header or a peer's text."""

from __future__ import annotations

from typing import Generic, TypeVar
from urllib.parse import urlsplit

__all__ = ["Hidden", "escaped", "peer_text", "shown_url"]

T = TypeVar("T")

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
        return self._shown


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
