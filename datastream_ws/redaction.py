"""What may be shown of a URL, a header or a peer's text."""

from __future__ import annotations

from urllib.parse import urlsplit

__all__ = ["escaped", "peer_text", "shown_url"]

UNREADABLE = "(unreadable URL)"
SHOWN_TEXT = 200  # characters of a peer's text that logs, errors and pages show


class HiddenHeaders(dict[str, str]):
    """
    Headers whose ``repr`` names them and shows no value.

    Tools that collect errors show the local variables of every frame in a traceback.
    """

    def __repr__(self) -> str:
        return f"<headers: {', '.join(self)}>"


def shown_url(url: str) -> str:
    """Return scheme, host, port and path of *url*: no userinfo, query or fragment."""
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
