"""Whose a spool file is: its path, its owner, and the one process that may have it open."""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
import threading
from contextlib import suppress
from types import ModuleType

from ..exceptions import SpoolError
from ..forks import in_child

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows: SQLite's own lock has to do
    fcntl = None

__all__ = ["FileLock", "check_companions", "check_files", "open_own", "path_for"]

# Files beside the spool: what SQLite takes for a part of it, and ours.
COMPANIONS = ("-journal", "-wal", "-shm", "-reserve")

NO_WAITING = getattr(os, "O_NONBLOCK", 0)  # for the other end of a pipe
NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)

# A lock of fcntl() does not keep this process itself out. Process id and path of each open spool;
# the id, because a forked child has none of its parent's locks.
_locked: set[tuple[int, str]] = set()
_guard = threading.Lock()


def _renew_guard() -> None:
    global _guard
    _guard = threading.Lock()


in_child(_renew_guard)


def path_for(option: str, name: str) -> str:
    """
    Fill in ``{name}``, ``{host}`` and ``{pid}``; what a file name may not hold is escaped.

    No two names have one file: the streams of a fleet are named by their rows, and one must not
    find the messages of another.
    """
    values = {"name": name, "host": socket.gethostname(), "pid": str(os.getpid())}
    for key, value in values.items():
        option = option.replace(f"{{{key}}}", re.sub(r"[^\w.-]", _escaped, value))
    return os.path.abspath(os.path.expanduser(option))


def _escaped(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "surrogatepass"))


class FileLock:
    """
    The right to a spool file, held through a lock on a file beside it.

    The kernel lets go of it when the process ends, however it does. The file stays: removing it
    would let two processes lock two files of one name.

    Raises:
        SpoolError: If another process, or another client of this one, has it.

    """

    def __init__(self, path: str) -> None:
        self._key = (os.getpid(), os.path.realpath(path))
        with _guard:
            if self._key in _locked:
                raise taken(path, "another client of this process")
            self._descriptor = _lock(path)
            _locked.add(self._key)

    def release(self) -> None:
        with _guard:
            _locked.discard(self._key)
            if self._descriptor is not None:
                os.close(self._descriptor)


def _lock(path: str) -> int | None:
    if fcntl is None:
        return None
    try:
        descriptor = open_own(f"{path}.lock", os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise refused(path, error) from None
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(descriptor, 20).decode(errors="replace").strip()
        os.close(descriptor)
        raise taken(path, f"process {holder}" if holder.isdigit() else "another process") from None
    with suppress(OSError):  # a full disk: the number is only for the other's message
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
    return descriptor


def taken(path: str, by: str) -> SpoolError:
    return SpoolError(
        f"spool {path}: in use by {by}. Stop it, or put {{pid}}, {{host}} or {{name}} into the "
        "path, so that each process has its own file."
    )


def refused(path: str, error: OSError) -> SpoolError:
    """Say what the system has against the file, with the cure where there is one."""
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        return SpoolError(f"spool {path}: the directory {folder} does not exist. Create it.")
    if error.errno == errno.ELOOP:
        return SpoolError(f"spool {path}: is a symbolic link. Set the path of the file itself.")
    return SpoolError(f"spool {path}: cannot be opened ({os.strerror(error.errno or 0)})")


def check_files(path: str) -> None:
    """
    Make the file, readable by this user only; an existing one must be such a file already.

    So must whatever SQLite or we would take for a part of it: rows could be read there, or put in.
    To be called before SQLite opens them: closing any descriptor of a file drops all locks that
    this process has on it.

    Raises:
        SpoolError: If one is a link, no file, or somebody else's, or if others may write to it;
            if the directory is missing, or if others may put files in the place of ours.

    """
    try:
        check_folder(path)
        os.close(open_own(path, os.O_RDWR | os.O_CREAT))
        for end in COMPANIONS:
            with suppress(FileNotFoundError):
                os.close(open_own(path + end, os.O_RDONLY))
    except OSError as error:
        raise refused(path, error) from None


def check_companions(path: str) -> None:
    """Look once more, by name: nobody was quicker than SQLite. Raises SpoolError."""
    for end in COMPANIONS:
        with suppress(FileNotFoundError):
            check_own(path + end, os.lstat(path + end))


def check_folder(path: str) -> None:
    """Raise SpoolError if others than root may replace files in the folder of *path*."""
    folder = os.path.dirname(path)
    found = os.stat(folder)
    if not hasattr(os, "geteuid"):
        return
    if found.st_uid not in (0, os.geteuid()):
        raise SpoolError(
            f"spool {path}: the directory {folder} belongs to another user (id {found.st_uid}). "
            "Set a path in a directory of this user."
        )
    # Who else is in its group was given the right to write on purpose, by volumes for instance.
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        raise SpoolError(
            f"spool {path}: every user can write to the directory {folder}. "
            "Set a path in a directory of this user, or run chmod o-w."
        )


def open_own(path: str, flags: int) -> int:
    """
    Open a file of this user's, and close it to others; never waits.

    Raises:
        SpoolError, OSError: If it is no such file, or cannot be opened.

    """
    descriptor = os.open(path, flags | NO_LINKS | NO_WAITING, 0o600)
    try:
        found = os.fstat(descriptor)
        check_own(path, found)
        if stat.S_IMODE(found.st_mode) & 0o077:
            os.fchmod(descriptor, 0o600)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def check_own(path: str, found: os.stat_result) -> None:
    """Raise SpoolError unless this is a file of this user's, which nobody else could write to."""
    if not stat.S_ISREG(found.st_mode):
        raise SpoolError(f"spool {path}: is not a regular file")
    if not hasattr(os, "geteuid"):
        return
    if found.st_uid != os.geteuid():
        raise SpoolError(
            f"spool {path}: belongs to another user (id {found.st_uid}). Set another path."
        )
    if found.st_mode & stat.S_IWOTH or found.st_nlink > 1:
        raise SpoolError(
            f"spool {path}: other users may have written to it, because its mode allows it or "
            "it has another name. Remove it, or set another path."
        )
