"""The configuration of a worker from ``app.conf.datastream`` and its command line."""

from __future__ import annotations

import difflib
import errno
import logging
import os
import re
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import ConfigurationError

__all__ = ["WorkerConfig", "spool_path"]

log = logging.getLogger("datastream_ws.celery")

KEYS = ("enabled", "on_fatal")
ON_FATAL = ("log", "shutdown")
TRUE, FALSE = {"1", "true", "t", "yes", "y", "on"}, {"", "0", "false", "f", "no", "n", "off"}


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """
    The configuration of a worker.

    Attributes:
        enabled: Whether it runs streams.
        names: The names of the streams to run. ``None`` means all.
        stops: Whether the worker stops when a stream has failed permanently.

    """

    enabled: bool
    names: tuple[str, ...] | None
    stops: bool

    @classmethod
    def of(cls, app: Any, flag: bool | None, names: str | None) -> WorkerConfig:
        """Read the configuration. The command line takes precedence. Raises ConfigurationError."""
        conf = _checked(app.conf.get("datastream") or {})
        enabled = _from_environment() if flag is None else flag
        if enabled is None:
            enabled = conf.get("enabled", False)
        chosen = tuple(filter(None, map(str.strip, names.split(",")))) if names else None
        return cls(enabled, chosen, conf.get("on_fatal") == "shutdown")


def _checked(conf: Any) -> Mapping[str, Any]:
    if not isinstance(conf, Mapping):
        raise ConfigurationError(f"app.conf.datastream: must be a dict, not {type(conf).__name__}")
    for key in conf:
        if key not in KEYS:
            near = difflib.get_close_matches(str(key).lower(), KEYS, n=1) or KEYS
            raise ConfigurationError(
                f"app.conf.datastream: unknown key {key!r}. Did you mean {' or '.join(near)}?"
            )
    if not isinstance(conf.get("enabled", False), bool):
        raise ConfigurationError("app.conf.datastream['enabled']: must be True or False")
    if conf.get("on_fatal", "log") not in ON_FATAL:
        raise ConfigurationError("app.conf.datastream['on_fatal']: must be 'log' or 'shutdown'")
    return conf


def _from_environment() -> bool | None:
    """Read the variable of Celery's command line, for workers that are started without it."""
    value = os.environ.get("CELERY_WORKER_DATASTREAM")
    if value is None:
        return None
    if value.lower() not in TRUE | FALSE:
        raise ConfigurationError("CELERY_WORKER_DATASTREAM: must be 1 or 0")
    return value.lower() in TRUE


def spool_path(app_name: str | None, node: str) -> str | None:
    """
    Return the path of a worker's spool, or ``None`` if no directory is usable.

    There is one file for each node and stream, because two processes can't share a file.
    """
    folder = re.sub(r"[^\w.-]", "_", app_name or "celery")
    for base in _state_directories():
        target = base / folder
        try:
            base.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            for part in (base, target):
                part.mkdir(mode=0o700, exist_ok=True)
                _refuse_strange(part)
        except OSError as error:
            log.warning("the directory %s cannot hold a spool: %s", target, error.strerror)
            continue
        if os.access(target, os.W_OK):
            return str(target / (re.sub(r"[^\w.@-]", "_", node) + ".{name}.spool"))
    return None


def _refuse_strange(folder: Path) -> None:
    """
    Raise OSError unless *folder* is a directory that only this user can change.

    In the temporary directory, another user may have created it or a symbolic link. If other users
    can read it, that permission is removed.
    """
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "it is a symbolic link, or not a directory")
    if not hasattr(os, "getuid"):
        return
    if found.st_uid != os.getuid():
        raise PermissionError(errno.EPERM, "it belongs to another user")
    if found.st_mode & 0o022:
        raise PermissionError(errno.EPERM, "other users can write to it")
    if found.st_mode & 0o055:
        os.chmod(folder, 0o700)


def _state_directories() -> list[Path]:
    """Return the directories for the state of this user's programs, the preferred one first."""
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return [
        Path(home) / "datastream-ws",
        Path(tempfile.gettempdir()) / f"datastream-ws-{user}",
    ]
