"""Files that survive a crash: written whole, synced, and private where they must be."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from tacit.errors import InputError, StorageFull


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace ``path`` by ``data`` so that a crash leaves the old or the new content, never a mixture.

    Raises:
        StorageFull: the disk has no room (ENOSPC or EDQUOT); the old file is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            os.fchmod(handle, mode)
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        sync_directory(path.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"no room left on the disk for {path}", hint="free some space and try again") from error
        raise


def create_private(path: Path, data: bytes) -> None:
    """Create ``path`` with mode 0600; an existing file is never overwritten.

    Raises:
        InputError: the file exists already.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise InputError(
            f"{path} exists already and is never overwritten",
            hint="choose another folder, or move the old file away yourself",
        ) from error
    with os.fdopen(handle, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make a rename or creation in ``path`` durable (fsync of the directory)."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
