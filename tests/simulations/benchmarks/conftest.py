"""A tiny banking77: the real files' columns, sentences in which one word tells the label."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import pytest

from tests.conftest import FILLER, LABELS, WORDS


def _sentences(rows: int, seed: int) -> list[tuple[str, str]]:
    rng = random.Random(seed)
    found = []
    for index in range(rows):
        label = LABELS[index % len(LABELS)]
        words = [*rng.sample(FILLER, 4), rng.choice(WORDS[label])]
        rng.shuffle(words)
        found.append((" ".join(words), label))
    return found


@pytest.fixture
def intent_folder(tmp_path: Path) -> Path:
    """A folder with banking77 (300 and 60 rows, three labels) and clinc150 (two domains and out of scope)."""
    folder = tmp_path / "data"
    for name in ("banking77", "clinc150"):
        (folder / name).mkdir(parents=True)
    for seed, (part, rows) in enumerate({"train": 300, "test": 60}.items()):
        with (folder / "banking77" / f"{part}.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["text", "category"])
            writer.writerows(_sentences(rows, seed))
        domains = {"animal": "living_things", "fruit": "living_things", "metal": "oos"} | {"silver": "metals"}
        lines = []
        for text, label in _sentences(rows, seed):
            named = "silver" if "silver" in text else label
            lines.append(json.dumps({"text": text, "label": named, "domain": domains[named]}))
        (folder / "clinc150" / f"{part}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
