"""
Streams in Celery workers.

::

    from datastream_ws.celery import forward, install

    app = Celery("proj", broker="redis://…")
    install(app, client)
    forward(client, "proj.tasks.ingest", queue="ticks", batch=(100, 0.2))

``celery -A proj worker --datastream`` runs the stream. A worker without ``--datastream`` opens no
connection. If the option ``lease`` is set, you can start any number of workers with it.
"""

from __future__ import annotations

try:
    import celery as _  # noqa: F401
except ImportError as missing:
    raise ImportError(
        "celery is not installed. Run: pip install 'datastream-ws[celery]'"
    ) from missing

from .commandline import refuse_in_import
from .forwarding import forward
from .installation import install

__all__ = ["forward", "install"]

refuse_in_import()
