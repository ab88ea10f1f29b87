"""The function ``install()``, which adds the step, the options and the remote commands."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .commandline import table_in_inspect
from .forwarding import bind
from .sources import Installation, installations

__all__ = ["install"]


def install(app: Any, client: Any = None, *, flask_app: Any = None) -> None:
    """
    Add a stream to the workers of *app*. It runs in workers that are started with ``--datastream``.

    Streams are looked up and started when a worker starts. You can therefore call it before or
    after :func:`forward`, and before ``django.setup()``. Calling it again with the same arguments
    has no effect.

    Args:
        app: The Celery app.
        client: A Client, a Fleet, a Django or Flask stream, or a list of them. ``None`` means all
            streams in Django's ``DATASTREAMS``.
        flask_app: The app of a Flask stream, or a callable that returns it. ``None`` for any other
            stream.

    Raises:
        ConfigurationError: If *client* is something else, or two streams have the same name.

    """
    app = app._get_current_object() if hasattr(app, "_get_current_object") else app
    installation = installations.get(app)
    if installation is None:
        installation = installations[app] = Installation()
        _install_step(app)
    several = isinstance(client, Iterable) and not hasattr(client, "on_message")
    for given in client if several else [client]:
        installation.add(given, flask_app)
        if given is not None:
            bind(given, app)


def _install_step(app: Any) -> None:
    from celery.bin.base import CeleryOption

    from . import control  # noqa: F401  # registers the remote commands
    from .step import DatastreamStep

    table_in_inspect()
    app.steps["worker"].add(DatastreamStep)
    app.user_options["worker"].update(
        [
            CeleryOption(
                ("--datastream/--no-datastream",),
                default=None,
                help="Run the installed WebSocket streams in this worker",
                help_group="Datastream Options",
            ),
            CeleryOption(
                ("--datastream-streams",),
                metavar="NAME,NAME",
                default=None,
                help="Run only the installed streams with these names",
                help_group="Datastream Options",
            ),
        ]
    )
