"""Where a Unix socket lies, also in a folder too deep for one."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tacit.errors import ConfigError
from tacit.sockets import socket_path

SUN_PATH_BYTES = 108  # unix(7): sun_path, with its terminating NUL


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """pytest's own temporary folders may already be too deep."""
    folder = Path(tempfile.mkdtemp(prefix="t-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def deep_folder(short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder too deep for a socket, and a temporary folder of its own."""
    monkeypatch.setattr(tempfile, "tempdir", str(short_folder))
    return short_folder / ("d" * 60) / ("e" * 60)


def bind(path: Path) -> None:
    assert len(os.fsencode(path)) < SUN_PATH_BYTES
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        assert stat.S_ISSOCK(path.stat().st_mode)


def test_a_socket_lies_in_the_state_folder_when_it_fits(short_folder: Path) -> None:
    path = socket_path(short_folder / "state", "agent.sock")
    assert path == (short_folder / "state").resolve() / "agent.sock"
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    bind(path)


def test_a_socket_of_a_deep_folder_lies_in_a_short_private_one(deep_folder: Path, short_folder: Path) -> None:
    path = socket_path(deep_folder, "agent.sock")
    assert path.parent.parent == short_folder
    assert path.name == "agent.sock"
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    bind(path)


def test_every_deep_folder_has_its_own_short_one_and_always_the_same(deep_folder: Path) -> None:
    assert socket_path(deep_folder, "agent.sock") == socket_path(deep_folder, "agent.sock")
    assert socket_path(deep_folder, "agent.sock") != socket_path(deep_folder / "x", "agent.sock")


def test_a_relative_folder_is_the_same_folder(short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(short_folder)
    assert socket_path(Path("state"), "agent.sock") == socket_path(short_folder / "state", "agent.sock")


def test_bytes_count_not_letters(short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(short_folder))
    bind(socket_path(short_folder / ("医" * 40), "agent.sock"))


def test_somebody_elses_short_folder_is_refused(deep_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody may create a folder in /tmp; the socket must not be put into one of theirs."""
    user = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    with pytest.raises(ConfigError, match=f"belongs to user {user}, expected {user + 1}") as caught:
        socket_path(deep_folder, "agent.sock")
    assert caught.value.hint
