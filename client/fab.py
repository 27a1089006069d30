"""A Flower App Bundle without code.

Flower ships an application as a zip that is unpacked, put first on ``sys.path`` and imported next to the
data. Tacit's bundle holds nothing but a ``pyproject.toml`` naming two components, which Python then finds in
the package that the site's own steward installed. A site accepts that bundle and no other.
"""

from __future__ import annotations

import hashlib
import io
import re
import tomllib
import zipfile
import zlib
from typing import Any

import tomli_w

import tacit
from tacit.errors import Refusal, RefusalReason

PUBLISHER = "tacit"
NAME = "tacit"
SERVERAPP = "server.app:app"
CLIENTAPP = "client.app:app"
#: The one setting a run may override: the run's specification as JSON.
RUN_SPEC_KEY = "run-spec"

_TASK_TYPE = "flwr-serverapp"
_FILES = frozenset({"pyproject.toml", ".info/CONTENT"})
_MAX_BUNDLE_BYTES = 64 * 1024
_MAX_FILE_BYTES = 64 * 1024
_VERSION = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6}){1,3}(\.?(dev|rc|post|a|b)[0-9]{1,6})?")
_HINT = "the coordinator must run Tacit of the same release series; code sent by a coordinator is never run"


def build_fab(*, serverapp: str = SERVERAPP) -> bytes:
    """Return the bundle's bytes; the same package version always gives the same bytes.

    Args:
        serverapp: where the coordinator's ServerApp is. Anything but the default is refused by every site.
    """
    from flwr.cli.build import build_fab_from_files  # half a second to import, and only coordinators build

    document = tomli_w.dumps(_project(tacit.__version__, serverapp)).encode()
    bundle, _ = build_fab_from_files({"pyproject.toml": document})
    return bundle


def check_fab(content: bytes, *, serverapp: str = SERVERAPP) -> None:
    """Accept the bundle of :func:`build_fab`, of any version of Tacit, and nothing else.

    Raises:
        Refusal: it holds another file, another setting, or is not a bundle; reason ``policy``.
    """
    if len(content) > _MAX_BUNDLE_BYTES:
        raise _refuse(f"the bundle is {len(content)} bytes, expected at most {_MAX_BUNDLE_BYTES}")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            if len(names) != len(_FILES) or set(names) != _FILES:
                listed = ", ".join(sorted(repr(name[:80]) for name in names[:10]))
                raise _refuse(f"the bundle holds {listed}, expected {', '.join(sorted(_FILES))} and nothing else")
            if any(entry.file_size > _MAX_FILE_BYTES or _is_special(entry) for entry in entries):
                raise _refuse("the bundle holds an oversized or special file")
            document = archive.read("pyproject.toml")
            manifest = archive.read(".info/CONTENT")
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OSError, RuntimeError, ValueError) as error:
        raise _refuse(f"the bundle is not a readable zip: {error}") from error
    try:
        project = tomllib.loads(document.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _refuse(f"the bundle's pyproject.toml is not TOML: {error}") from error
    version = project.get("project", {}).get("version") if isinstance(project.get("project"), dict) else None
    check_version(version)
    if project != _project(str(version), serverapp):
        raise _refuse("the bundle's pyproject.toml is not Tacit's")
    digest = hashlib.sha256(document).hexdigest()
    if manifest != f"pyproject.toml,{digest},{8 * len(document)}".encode():
        raise _refuse("the bundle's list of contents does not match its contents")


def check_run(fab_id: str, fab_version: str, fab_hash: str, task_type: str) -> None:
    """Accept a run whose application is Tacit.

    Flower builds the folder it imports from out of the first three, as given by the coordinator, and chooses
    the program it starts at the site by the fourth.

    Raises:
        Refusal: another application or kind of run, or a version or hash that is not one; reason ``policy``.
    """
    if task_type not in ("", _TASK_TYPE):
        raise _refuse(f"the run's task is {task_type[:80]!r}, expected {_TASK_TYPE}")
    if fab_id != f"{PUBLISHER}/{NAME}":
        raise _refuse(f"the run's application is {fab_id[:80]!r}, expected {PUBLISHER}/{NAME}")
    check_version(fab_version)
    if not re.fullmatch(r"[0-9a-f]{64}", fab_hash):
        raise _refuse("the run's bundle hash is not a SHA-256 in hexadecimal")


def check_version(version: object) -> None:
    """Accept a plain version number, which can be part of a folder's name.

    Raises:
        Refusal: it is not one; reason ``policy``.
    """
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise _refuse(f"the bundle's version is {str(version)[:80]!r}, expected a plain version number")


def _project(version: str, serverapp: str) -> dict[str, Any]:
    return {
        "project": {"name": NAME, "version": version},
        "tool": {
            "flwr": {
                "app": {
                    "publisher": PUBLISHER,
                    "components": {"serverapp": serverapp, "clientapp": CLIENTAPP},
                    "config": {RUN_SPEC_KEY: ""},
                }
            }
        },
    }


def _is_special(entry: zipfile.ZipInfo) -> bool:
    """Whether the entry is a folder, a symbolic link, or encrypted."""
    file_type = (entry.external_attr >> 16) & 0o170000
    return entry.is_dir() or file_type not in (0, 0o100000) or bool(entry.flag_bits & 0x1)


def _refuse(message: str) -> Refusal:
    return Refusal(RefusalReason.POLICY, message, hint=_HINT)
