"""From a folder of base-model files to a model with an adapter on it: loading, checks, ``peft``."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from models.base import resolve_model_folder  # first: it puts the Hugging Face libraries into offline mode
from models.classifier import AdapterModel
from models.compute import Compute
from privacy.order import LoraSpec
from tacit.errors import ModelError

# isort: split
import transformers
from peft import LoraConfig, get_peft_model
from peft.utils.constants import DUMMY_TARGET_MODULES
from transformers import AutoConfig, AutoModelForTokenClassification, AutoTokenizer

#: What the token-classification models of transformers call their linear head.
_HEAD_NAMES = ("classifier", "score")


def build_classifier(
    folder: Path, lora: LoraSpec, labels: Sequence[str], max_tokens: int, compute: Compute | None = None
) -> AdapterModel:
    """Load the base model in ``folder``, freeze it, and put an adapter for ``labels`` on it.

    The adapter holds :meth:`AdapterModel.initial_vector`.

    Args:
        folder: a local Hugging Face folder (see :func:`models.base.resolve_model_folder`).
        lora: rank, alpha, and the last parts of the names of the linear layers that carry an adapter; none of them,
            and the head alone is trained.
        labels: two or more different label names.
        max_tokens: longest text, in tokens.
        compute: device and precision, from :func:`models.compute.configure_compute`; by default the CPU and float32.

    Raises:
        ModelError: the folder cannot be loaded, a target names no linear layer, the labels repeat, or the model is
            too short for ``max_tokens``.
    """
    if len(labels) < 2 or len(set(labels)) != len(labels):
        raise ModelError(
            f"got {len(labels)} labels, {len(set(labels))} of them different; expected at least two, all different"
        )
    resolve_model_folder(str(folder))
    task_model, tokenizer = _load(folder, len(labels))
    limit = getattr(task_model.config, "max_position_embeddings", None)
    if limit is not None and max_tokens > limit:
        raise ModelError(
            f"max_tokens is {max_tokens}, but the model in {str(folder)!r} takes at most {limit} tokens",
            hint="lower max_tokens in the run file",
        )
    head_name = _find_head(task_model, folder)
    _check_targets(task_model, lora.targets, head_name, folder)
    config = LoraConfig(
        task_type="TOKEN_CLS",
        # without targets nothing has a rank, but peft wants one above zero
        r=max(1, lora.rank),
        lora_alpha=lora.alpha,
        target_modules=list(lora.targets) or DUMMY_TARGET_MODULES,
        lora_dropout=0.0,
        bias="none",
        modules_to_save=[head_name],
    )
    with warnings.catch_warnings():
        # peft reads an attribute that transformers renames in its next version
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        module = get_peft_model(task_model, config)
    head = getattr(module.get_base_model(), head_name).modules_to_save["default"]
    with torch.no_grad():
        head.bias.zero_()
    head.bias.requires_grad_(False)
    if lora.freeze_a:
        for name, parameter in module.named_parameters():
            if ".lora_A." in name:
                parameter.requires_grad_(False)
    return AdapterModel(module, tokenizer, head_name, labels, max_tokens, folder, compute)


def _load(folder: Path, label_count: int) -> tuple[nn.Module, transformers.PreTrainedTokenizerBase]:
    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, num_labels=label_count)
        model, loading = AutoModelForTokenClassification.from_pretrained(
            str(folder),
            config=config,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # transformers raises whatever its parsers raise
        raise ModelError(
            f"the model in {str(folder)!r} cannot be loaded ({type(error).__name__}: {_first_line(error)}); "
            "expected an encoder that transformers loads with AutoModelForTokenClassification, and its tokenizer",
            hint="check that the folder is complete: AutoModel.from_pretrained(folder) must work offline",
        ) from error
    # transformers fills what is missing at random, differently at each site
    missing = sorted(key for key in loading["missing_keys"] if key.partition(".")[0] not in _HEAD_NAMES)
    if missing:
        raise ModelError(
            f"the weights in {str(folder)!r} lack {len(missing)} tensors of the model that config.json describes, "
            f"such as {missing[0]}; expected all but the head's",
            hint="the folder's files belong to different models or a copy was cut short; copy it again",
        )
    # Where the model lies on this machine is nobody's business; peft would write it into every saved adapter.
    model.name_or_path = ""
    return model, tokenizer


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def _find_head(task_model: nn.Module, folder: Path) -> str:
    for name in _HEAD_NAMES:
        head = getattr(task_model, name, None)
        if isinstance(head, nn.Linear) and head.bias is not None:
            return name
    raise ModelError(
        f"the token-classification model of {str(folder)!r} has no linear layer with a bias that is called "
        f"{' or '.join(_HEAD_NAMES)}",
        hint="use a BERT-like encoder",
    )


def _linear_layers(task_model: nn.Module, head_name: str) -> Iterator[str]:
    for name, layer in task_model.named_modules():
        if isinstance(layer, nn.Linear) and name != head_name:
            yield name


def _check_targets(task_model: nn.Module, targets: Sequence[str], head_name: str, folder: Path) -> None:
    names = list(_linear_layers(task_model, head_name))
    unknown = [target for target in targets if not any(name == target or name.endswith("." + target) for name in names)]
    if unknown:
        known = sorted({name.rpartition(".")[2] for name in names})
        raise ModelError(
            f"LoRA targets {', '.join(unknown)} name no linear layer of the model in {str(folder)!r}; "
            f"expected some of {', '.join(known)}",
            hint="name attention layers, such as query and value (BERT) or q_proj and v_proj (Llama)",
        )
