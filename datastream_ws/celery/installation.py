"""``install()``: the step, the worker's options, the remote commands."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .commandline import table_in_inspect
from .forwarding import bind, note_installed
from .sources import Installation, installations

__all__ = ["install"]


def install(app: Any, client: Any = None, *, flask_app: Any = None) -> None:
    """
    Give the workers of *app* a stream, which runs where they are started with ``--datastream``.

    Nothing is resolved, and nothing started, before a worker starts; so it may be called in any
    order with :func:`forward` and before ``django.setup()``. The same call again changes nothing.

    Args:
        app: The Celery app.
        client: A Client or a Fleet, a stream of Django's or Flask's, or a list of them; ``None``:
            all that Django's ``DATASTREAMS`` configures.
        flask_app: Of a Flask stream: the app, or a callable returning it.

    Raises:
        ConfigurationError: If it is none of these, or two streams have one name.

    """
    app = app._get_current_object() if hasattr(app, "_get_current_object") else app
    installation = installations.get(app)
    if installation is None:
        installation = installations[app] = Installation()
        _install_step(app)
        note_installed(app)
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
                help="Run the installed WebSocket streams in this worker.",
                help_group="Datastream Options",
            ),
            CeleryOption(
                ("--datastream-streams",),
                metavar="NAME,NAME",
                default=None,
                help="Run only these of the installed streams.",
                help_group="Datastream Options",
            ),
        ]
    )
