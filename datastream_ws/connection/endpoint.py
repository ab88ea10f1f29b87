"""Where to connect and with which headers: the options, or what their callables return now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from ..exceptions import ConfigurationError
from ..option_checks import check_headers, check_url
from ..options import ClientOptions
from ..process.user_calls import call_user
from ..redaction import HiddenHeaders

__all__ = ["current_headers", "current_url"]

Submit = Callable[[Callable[[], Any]], Future[Any]]


async def current_url(options: ClientOptions, submit: Submit) -> str:
    """
    Return the URL of this attempt; a plain callable runs on a handler thread.

    Raises:
        ConfigurationError: If what the callable returned cannot be used; it is not shown.

    """
    url = options.url
    if isinstance(url, str):
        return url
    made = await call_user(url, submit)
    if wrong := check_url(made):
        raise ConfigurationError(f"url: what the callable returned {wrong}")
    return str(made)


async def current_headers(options: ClientOptions, submit: Submit) -> Mapping[str, str]:
    """Return the headers of this attempt; see :func:`current_url`."""
    headers = options.headers
    if isinstance(headers, Mapping):
        return headers
    made = await call_user(headers, submit)
    if wrong := check_headers(made):
        raise ConfigurationError(f"headers: what the callable returned {wrong}")
    return HiddenHeaders((name, value.strip(" \t")) for name, value in made.items())
