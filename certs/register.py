"""The CA's register of what it issued: one name, one peer. A JSON file beside the CA's key."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from certs.names import PeerName, parse_uri
from tacit.canonical import parse_json
from tacit.durable import write_atomic
from tacit.errors import CertificateError, InputError

_VERSION = 1
_KEY = "tacit_issued"


@dataclass(frozen=True)
class IssuedEntry:
    """One pair of certificates. Serial numbers are decimal, times RFC 3339 UTC."""

    uri: str
    issued_at: str
    not_before: str
    not_after: str
    tls_serial: str
    identity_serial: str
    identity_key: str
    rotation: bool


class IssuedRegister:
    """``issued.json``: read whole, appended whole, never edited.

    Args:
        path: where the file lies; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def entries(self) -> tuple[IssuedEntry, ...]:
        """Everything issued so far, oldest first.

        Raises:
            CertificateError: the file cannot be read or holds something else. Nothing is issued then.
        """
        try:
            content = parse_json(self._path.read_bytes())
        except FileNotFoundError:
            return ()
        except (OSError, InputError) as error:
            raise self._unreadable(str(error)) from error
        if not isinstance(content, dict) or content.get(_KEY) != _VERSION or set(content) != {_KEY, "entries"}:
            raise self._unreadable(f"it is not version {_VERSION} of the register")
        if not isinstance(content["entries"], list):
            raise self._unreadable("its entries are not a list")
        return tuple(self._entry(item) for item in content["entries"])

    def holds(self, name: PeerName) -> IssuedEntry | None:
        """The latest entry of ``name``, or None."""
        return next((entry for entry in reversed(self.entries()) if entry.uri == str(name)), None)

    def append(self, entry: IssuedEntry) -> None:
        """Add one entry, durably. Call it inside :meth:`locked`.

        Raises:
            CertificateError: the register cannot be read.
            StorageFull: the disk refused the write; the register is as before.
        """
        entries = [*self.entries(), entry]
        content = {_KEY: _VERSION, "entries": [asdict(item) for item in entries]}
        write_atomic(self._path, (json.dumps(content, indent=2) + "\n").encode(), mode=0o600)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the CA folder, so that two processes cannot issue one name at the same time."""
        handle = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _entry(self, item: object) -> IssuedEntry:
        kinds = {field.name: bool if field.name == "rotation" else str for field in fields(IssuedEntry)}
        if (
            not isinstance(item, dict)
            or set(item) != set(kinds)
            or not all(isinstance(item[key], kind) for key, kind in kinds.items())
        ):
            raise self._unreadable(f"an entry does not have exactly the keys {', '.join(kinds)}")
        try:
            parse_uri(item["uri"])
        except InputError as error:
            raise self._unreadable(error.message) from error
        return IssuedEntry(**item)

    def _unreadable(self, reason: str) -> CertificateError:
        return CertificateError(
            f"the register {self._path} cannot be read: {reason}",
            hint="restore it from a backup; without it a name could be given to two peers",
        )
