"""``tacit site serve --check`` with data or a model that cannot be used."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Shell = Callable[..., Any]
Edit = Callable[[Path, str, str], None]


@pytest.fixture
def serve_with(tacit: Shell, site: Path, edit: Edit, tmp_path: Path) -> Callable[..., Any]:
    """Check the site with a data file of these bytes, and see that a failure costs nothing."""

    def serve(content: bytes, suffix: str = ".csv") -> Any:
        data = tmp_path / f"records{suffix}"
        data.write_bytes(content)
        old = next(line for line in (site / "site.toml").read_text().splitlines() if line.startswith("path = "))
        edit(site / "site.toml", old, f'path = "{data}"')
        answer = tacit("site", "serve", "--check", "--home", site)
        assert data.read_bytes() == content
        assert tacit("ledger", "verify", site).code == 0
        return answer

    return serve


def test_what_is_right_is_said_to_be(tacit: Shell, site: Path) -> None:
    answer = tacit("site", "serve", "--check", "--home", site)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.endswith("everything is in order\n")


def test_a_wrong_column_name(tacit: Shell, site: Path, edit: Edit) -> None:
    edit(site / "site.toml", 'text_column = "text"', 'text_column = "message"')
    tacit("site", "serve", "--check", "--home", site).fails(2, "no column 'message'", "'text', 'label'")
    edit(site / "site.toml", 'text_column = "message"', 'text_column = "text"')
    assert tacit("site", "serve", "--check", "--home", site).code == 0, "the ledger was let go"


def test_a_key_column_that_the_agreement_does_not_ask_for(tacit: Shell, site: Path, edit: Edit) -> None:
    edit(site / "site.toml", 'label_column = "label"', 'label_column = "label"\nkey_column = "who"')
    answer = tacit("site", "serve", "--check", "--home", site)
    answer.fails(
        2, "the key column 'who' was named, and the agreement protects each record", "leave the key column out"
    )


@pytest.mark.parametrize("content", [b"", b"text,label\n"], ids=["no header", "no record"])
def test_an_empty_file(serve_with: Shell, content: bytes) -> None:
    serve_with(content).fails(2, "expected")


def test_an_unknown_label(serve_with: Shell) -> None:
    answer = serve_with(b"text,label\nan old plum,fruit\nan old stone,stone\n")
    answer.fails(2, "row 2 (line 3)", "'stone'", "'animal', 'fruit', 'metal'")


def test_a_file_in_windows_1252(serve_with: Shell) -> None:
    answer = serve_with("text,label\nthe café is here,fruit\n".encode("cp1252"))
    answer.fails(2, "line 2: not UTF-8", "save the file with the encoding UTF-8")


def test_a_file_with_semicolons(serve_with: Shell) -> None:
    serve_with(b"text;label\nan old plum;fruit\n").fails(2, "'text;label'", "the separator must be a comma")


def test_a_broken_json_line(serve_with: Shell) -> None:
    serve_with(b'{"text": "an old plum", "label": "fruit"}\n{"text": \n', ".jsonl").fails(2, "line 2")


def test_a_data_file_that_is_not_there(tacit: Shell, site: Path, edit: Edit) -> None:
    edit(site / "site.toml", "alpha.csv", "omega.csv")
    tacit("site", "serve", "--check", "--home", site).fails(2, "omega.csv", "No such file")


def test_a_model_folder_that_is_not_there(tacit: Shell, site: Path, edit: Edit, tiny_model: Path) -> None:
    edit(site / "site.toml", str(tiny_model), str(tiny_model) + "-elsewhere")
    tacit("site", "serve", "--check", "--home", site).fails(2, "is not a folder; expected one with config.json")


def test_a_model_folder_without_weights(tacit: Shell, site: Path, edit: Edit, tiny_model: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    (model / "model.safetensors").unlink()
    edit(site / "site.toml", str(tiny_model), str(model))
    tacit("site", "serve", "--check", "--home", site).fails(2, "has no *.safetensors", "save_pretrained")


def test_a_model_with_another_digest_than_agreed(
    tacit: Shell, site: Path, edit: Edit, tiny_model: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    with (model / "vocab.txt").open("a") as vocabulary:
        vocabulary.write("\npeach")
    edit(site / "site.toml", str(tiny_model), str(model))
    answer = tacit("site", "serve", "--check", "--home", site)
    answer.fails(2, "has digest sha256:", "the agreement names sha256:", "install the agreed model's files")
