"""What end-to-end tests share: a tiny model built from configuration, and plans for small consortia."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from simulations.local_consortium import ConsortiumPlan, Recipe

# time limits on single examples measure the machine, not the code
settings.register_profile("tacit", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tacit")

LABELS = ("animal", "fruit", "metal")
WORDS = {
    "animal": ("horse", "eagle", "otter", "rabbit", "salmon"),
    "fruit": ("apple", "cherry", "lemon", "mango", "plum"),
    "metal": ("copper", "iron", "nickel", "silver", "zinc"),
}
FILLER = ("the", "a", "is", "here", "and", "please", "what", "about", "my", "old")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer BERT with random weights and a word-level vocabulary: a real model folder, quick to train."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-model")
    words = [word for label in LABELS for word in WORDS[label]]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *FILLER, *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    torch.manual_seed(20)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        initializer_range=0.2,
    )
    BertModel(config).save_pretrained(folder)
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def write_messages(path: Path, rows: int, seed: int, records_per_user: int | None = None) -> Path:
    """Write ``rows`` labelled sentences in which one word tells the label.

    With ``records_per_user`` a column ``who`` names whose each is: about that many, some more and some less, are one's.
    """
    rng = random.Random(seed)
    owners = random.Random(1000 + seed)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label", *(["who"] if records_per_user else [])])
        for index in range(rows):
            label = LABELS[index % len(LABELS)]
            words = [*rng.sample(FILLER, 4), rng.choice(WORDS[label])]
            rng.shuffle(words)
            who = [f"customer-{seed}-{owners.randrange(rows // records_per_user)}"] if records_per_user else []
            writer.writerow([" ".join(words), label, *who])
    return path


@pytest.fixture
def small_plan(tmp_path: Path, tiny_model: Path) -> Callable[..., ConsortiumPlan]:
    """Return a function that makes a plan: ``small_plan(sites=3, rounds=2, noise_seed=None)``, and the recipe's."""

    def make(
        sites: int = 3,
        rounds: int = 2,
        noise_seed: int | None = None,
        records_per_user: int | None = None,
        **recipe: float,
    ) -> ConsortiumPlan:
        data = tmp_path / "data"
        data.mkdir(exist_ok=True)
        names = ("alpha", "beta", "delta", "gamma")[:sites] if sites == 4 else ("alpha", "beta", "gamma")[:sites]
        chosen: dict[str, float] = {
            "rounds": rounds,
            "local_steps": 2,
            "sample_rate": 0.2,
            "noise_multiplier": 1.0,
            "l2_clip_norm": 1.0,
            "learning_rate": 0.5,
            "public_dataset_size": 120,
            "max_tokens": 16,
            "lora_rank": 2,
            "lora_alpha": 4.0,
            **recipe,
        }
        return ConsortiumPlan(
            consortium="tests",
            title="A small agreement",
            purpose="To test.",
            sites={
                name: write_messages(data / f"{name}.csv", 120, seed, records_per_user)
                for seed, name in enumerate(names)
            },
            labels=LABELS,
            base_model=str(tiny_model),
            base_model_name="tiny",
            recipe=Recipe(**chosen),  # type: ignore[arg-type]
            test_data=write_messages(data / "test.csv", 60, 99),
            run_name="small",
            epsilon_per_run=20.0,
            epsilon_lifetime=40.0,
            delta=1e-4,
            testing=noise_seed is not None,
            noise_seed=noise_seed,
            key_column="who" if records_per_user else None,
            # less than the users who have the most
            max_records_per_user=records_per_user,
        )

    return make
