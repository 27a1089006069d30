"""Where a process's private Unix socket lives.

A Unix socket's path is limited to 107 bytes on Linux (``sun_path``), and working folders can be deeper than that.
"""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
from pathlib import Path

from tacit.errors import ConfigError, TransportError

_SUN_PATH_MAX_BYTES = 100


def socket_path(state_folder: Path, name: str) -> Path:
    """Return the socket ``name`` in ``state_folder``, or in a private short folder when that path is too long.

    The folder holding the socket is created with mode 0700 and must belong to this user.

    Raises:
        ConfigError: the short folder exists and belongs to somebody else.
    """
    path = state_folder.resolve() / name
    if len(os.fsencode(path)) > _SUN_PATH_MAX_BYTES:
        token = hashlib.sha256(os.fsencode(state_folder.resolve())).hexdigest()[:16]
        path = Path(tempfile.gettempdir()) / f"tacit-{os.getuid()}-{token}" / name
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    owner = path.parent.stat()
    if owner.st_uid != os.getuid():
        raise ConfigError(
            f"{path.parent} belongs to user {owner.st_uid}, expected {os.getuid()}",
            hint="remove that folder, or use a shorter working folder",
        )
    return path


def claim_socket(path: Path, what: str) -> None:
    """Remove the socket a dead process left behind, so that ``what`` can listen on ``path``.

    Raises:
        TransportError: a process answers there.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
            return
    raise TransportError(f"{what} is already serving {path}", hint="one folder has one such process: stop it first")
