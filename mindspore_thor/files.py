"""Files and folders that are shared with other processes: written whole, and held by one at a time.

Nothing here follows a name that somebody else may have made: a temporary file has a name that
cannot be guessed and must not exist yet, and the finished file takes the place of whatever stands
under its name, of a link as well.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mindspore_thor.errors import UserError

_PART = ".part"
_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{16}\.part", re.DOTALL)
_REMEDIES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room in your quota",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
}


def shown(value: object, limit: int = 100) -> str:
    """Return a text for an error message: printable, in one line, cut in the middle if it is long.

    Args:
        value: What is quoted: a path, a name from a file.
        limit: Largest length, in characters.
    """
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(value)[: 1 << 16])
    if len(text) <= limit:
        return text
    tail = limit * 2 // 3
    return f"{text[: limit - tail - 3]}...{text[-tail:]}"


def write_file(path: Path, chunks: Iterable[bytes], size: int) -> None:
    """Write a file: complete under its name, or not at all. Its mode follows the umask.

    Args:
        path: The file.
        chunks: Its contents, one after the other.
        size: About how many bytes these are, for the message.

    Raises:
        UserError: If the system refuses; the file that stood there is untouched.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}{_PART}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    problem: OSError | None = None
    try:
        handle = os.open(temporary, flags, 0o666)
        try:
            for chunk in chunks:
                view = memoryview(chunk)
                while view:
                    view = view[os.write(handle, view) :]
            os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(temporary, path)
    except OSError as error:
        problem = error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    if problem is not None:
        # Only now: what was written of the temporary file is free again.
        raise _refused(path, problem, size) from problem
    _sync_folder(path.parent)


def _refused(path: Path, error: OSError, size: int) -> UserError:
    reason = error.strerror or str(error)
    room = ""
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(path.parent).free
        room = f"; it needs {size / 1e6:.3f} MB, {free / 1e6:.3f} MB are free"
    remedy = _REMEDIES.get(error.errno or 0, "check the path, its permissions and the disk")
    return UserError(f"{shown(path, 70)}: cannot be written ({shown(reason, 60)}){room}; {remedy}")


def _sync_folder(folder: Path) -> None:
    """Make the new name itself survive a power cut, where the platform can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of processes that were killed while they wrote.

    Args:
        folder: Held by the caller, so that no other process is writing there.
    """
    for path in folder.glob(f".*{_PART}"):
        if _LEFTOVER.fullmatch(path.name):
            with contextlib.suppress(OSError):
                path.unlink()


@contextmanager
def held(folder: Path, *, wait: bool) -> Iterator[int]:
    """Hold a folder, which is made where it is missing, against other processes.

    The system lets it go when the process ends, however that happens. Where a file system knows no
    such locks, the folder is not held.

    Args:
        folder: The folder.
        wait: Whether to wait for another process.

    Yields:
        A file descriptor. A process that inherits it holds the folder as well.

    Raises:
        BlockingIOError: If another process holds the folder, and ``wait`` is false.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        yield -1
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno not in (errno.EBADF, errno.ENOLCK, errno.ENOTSUP, errno.EINVAL):
                raise
        yield descriptor
    finally:
        os.close(descriptor)
