"""Files written whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from tacit.durable import create_private, sync_directory, write_atomic
from tacit.errors import InputError, StorageFull


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def fail_with(number: int) -> object:
    def failing(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    return failing


def test_a_file_is_created_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "file"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert [item.name for item in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("wanted", [0o600, 0o644])
def test_the_mode_is_the_one_asked_for_whatever_the_umask(tmp_path: Path, wanted: int) -> None:
    before = os.umask(0o077 if wanted == 0o644 else 0)
    try:
        write_atomic(tmp_path / "file", b"x", mode=wanted)
    finally:
        os.umask(before)
    assert mode(tmp_path / "file") == wanted


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")
    monkeypatch.setattr(os, step, fail_with(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        write_atomic(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")
    monkeypatch.setattr(os, "fsync", fail_with(number))
    with pytest.raises(StorageFull, match=r"no room left on the disk for .*file") as caught:
        write_atomic(path, b"new")
    monkeypatch.undo()
    assert caught.value.hint
    assert path.read_bytes() == b"old"


def test_a_file_is_synced_before_it_takes_its_name_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def recording_fsync(handle: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def recording_replace(source: str, target: Path) -> None:
        calls.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(os, "replace", recording_replace)
    write_atomic(tmp_path / "file", b"x")
    assert calls == ["file", "replace", "folder"]


def test_a_private_file_is_its_owners(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        create_private(tmp_path / "keys" / "key", b"secret")
    finally:
        os.umask(before)
    assert (tmp_path / "keys" / "key").read_bytes() == b"secret"
    assert mode(tmp_path / "keys" / "key") == 0o600


def test_a_private_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key"
    create_private(path, b"first")
    with pytest.raises(InputError, match="exists already and is never overwritten") as caught:
        create_private(path, b"second")
    assert caught.value.hint
    assert path.read_bytes() == b"first"


def test_a_private_file_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="never overwritten"):
        create_private(tmp_path / "key", b"secret")
    assert not (tmp_path / "elsewhere").exists()


def test_only_a_folder_is_synced_as_one(tmp_path: Path) -> None:
    sync_directory(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        sync_directory(tmp_path / "file")
