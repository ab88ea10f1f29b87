"""The path of a spool file, its permissions and the lock of the process that uses it."""

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
except ImportError:  # on Windows, SQLite's own lock is used instead
    fcntl = None

__all__ = ["FileLock", "check_companions", "check_files", "open_own", "path_for"]

# Suffixes of the files beside the spool, which SQLite or the client treats as a part of it.
COMPANIONS = ("-journal", "-wal", "-shm", "-reserve")

NO_WAITING = getattr(os, "O_NONBLOCK", 0)  # otherwise opening a named pipe blocks
NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)

# Process id and path of each open spool, because a lock of fcntl() does not exclude other clients
# of the same process. The id excludes the parent's entries in a forked child.
_locked: set[tuple[int, str]] = set()
_guard = threading.Lock()


def _renew_guard() -> None:
    global _guard
    _guard = threading.Lock()


in_child(_renew_guard)


def path_for(option: str, name: str) -> str:
    """
    Return the path with ``{name}``, ``{host}`` and ``{pid}`` filled in.

    Characters that are unsafe in a file name are escaped. Two names never have the same file,
    because a stream must not find the messages of another.
    """
    values = {"name": name, "host": socket.gethostname(), "pid": str(os.getpid())}
    for key, value in values.items():
        option = option.replace(f"{{{key}}}", re.sub(r"[^\w.-]", _escaped, value))
    return os.path.abspath(os.path.expanduser(option))


def _escaped(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "surrogatepass"))


class FileLock:
    """
    A lock on a spool file, held on a second file beside it.

    Creating the object takes the lock without blocking. The kernel releases it when the process
    ends. The second file stays, because otherwise two processes could lock two files of one name.

    Args:
        path: The path of the spool file.

    Raises:
        SpoolError: If another process, or another client of this process, has the lock.

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
    except OSError as error:
        holder = os.read(descriptor, 20).decode(errors="replace").strip()
        os.close(descriptor)
        if error.errno not in (errno.EACCES, errno.EAGAIN):  # the file system has no locks
            reason = os.strerror(error.errno or 0)
            raise SpoolError(f"spool {path}: cannot be locked ({reason})") from None
        raise taken(path, f"process {holder}" if holder.isdigit() else "another process") from None
    with suppress(OSError):  # the disk may be full, and the id is only for an error message
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
    return descriptor


def taken(path: str, by: str) -> SpoolError:
    return SpoolError(
        f"spool {path}: in use by {by}. Stop it, or put {{pid}}, {{host}} or {{name}} into the "
        "path, so that each process has its own file."
    )


def refused(path: str, error: OSError) -> SpoolError:
    """Return the error for a file that the system refuses to open."""
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        return SpoolError(f"spool {path}: the directory {folder} does not exist. Create it.")
    if error.errno == errno.ELOOP:
        return SpoolError(f"spool {path}: is a symbolic link. Set the path of the file itself.")
    return SpoolError(f"spool {path}: cannot be opened ({os.strerror(error.errno or 0)})")


def check_files(path: str) -> None:
    """
    Make the spool file, readable by this user only, or check an existing one.

    The files beside it are checked, too. SQLite treats them as a part of the spool, so another user
    could read or insert rows there. Call this before SQLite opens the files, because closing any
    descriptor of a file drops all locks that this process has on it.

    Raises:
        SpoolError: If a file is a link, is not a regular file, or belongs to another user, if other
            users may write to it or to the directory, or if the directory is missing.

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
    """
    Check the files beside the spool again, after SQLite has opened them.

    Another user may have made one between :func:`check_files` and SQLite.

    Raises:
        SpoolError: If a file does not belong to this user alone.

    """
    for end in COMPANIONS:
        with suppress(FileNotFoundError):
            check_own(path + end, os.lstat(path + end))


def check_folder(path: str) -> None:
    """
    Check the directory of *path*.

    Raises:
        SpoolError: If other users than root may replace files in it.

    """
    folder = os.path.dirname(path)
    found = os.stat(folder)
    if not hasattr(os, "geteuid"):
        return
    if found.st_uid not in (0, os.geteuid()):
        raise SpoolError(
            f"spool {path}: the directory {folder} belongs to another user (id {found.st_uid}). "
            "Set a path in a directory of this user."
        )
    # The group may write. Volumes of Kubernetes are set up like that on purpose.
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        raise SpoolError(
            f"spool {path}: every user can write to the directory {folder}. "
            "Set a path in a directory of this user, or run chmod o-w."
        )


def open_own(path: str, flags: int) -> int:
    """
    Open a file of this user without blocking, and remove the permissions of other users.

    Raises:
        SpoolError: If it is not a regular file of this user alone.
        OSError: If it cannot be opened.

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
    """
    Check that a file is a regular file of this user.

    Raises:
        SpoolError: If it is not, or if another user may have written to it.

    """
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
