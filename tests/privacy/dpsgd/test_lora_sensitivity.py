"""One record really removed from a padded batch: the clipped sum moves by at most C, whatever the task."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from privacy.dpsgd import LoraGradients, check_independence, clipped_gradient_sum
from tacit.errors import TrainingError
from tests.privacy.dpsgd.language_models import (
    Batch,
    Case,
    Texts,
    causal_llama,
    sequence_classifier,
    token_classifier,
)

TASKS: dict[str, Callable[[], Case]] = {
    "token classification": token_classifier,
    "sequence classification": sequence_classifier,
    "causal LM": causal_llama,
}


def largest_change(engine: LoraGradients, clip: float, physical_batch_size: int = 4) -> float:
    """In units of the clip norm, over all records."""
    texts = Texts()

    def total(of: Texts) -> np.ndarray:
        return clipped_gradient_sum(
            engine, of, np.arange(len(of)), l2_clip_norm=clip, physical_batch_size=physical_batch_size
        )

    everybody = total(texts)
    return max(float(np.linalg.norm(everybody - total(texts.without(index)))) / clip for index in range(len(texts)))


@pytest.mark.parametrize("physical_batch_size", [1, 4, 32])
@pytest.mark.parametrize("task", TASKS)
def test_removing_one_record_changes_the_sum_by_at_most_the_clip_norm(task: str, physical_batch_size: int) -> None:
    with TASKS[task]().engine() as engine:
        check_independence(engine, Texts())
        change = largest_change(engine, 0.4, physical_batch_size)
    assert change <= 1.0 + 1e-5
    # the clip norm binds, so a looser clip would be seen
    assert change > 0.99


@pytest.mark.parametrize(("task", "clip"), [("token classification", 2.7), ("causal LM", 5.7)])
def test_mean_over_the_tokens_of_the_batch_breaks_the_bound(task: str, clip: float) -> None:
    """The library's loss is that mean. As a number it is refused; spread over the records it would be this."""
    case = TASKS[task]()

    def spread(batch: Batch) -> object:
        counts = batch.mask.sum(1)
        return case.loss(batch) * counts / counts.sum() * len(counts)

    with case.engine(loss=spread) as engine:
        assert largest_change(engine, clip, 32) > 1.01
        with pytest.raises(TrainingError, match="changes with the batch"):
            check_independence(engine, Texts())
    with case.engine(loss=case.library_loss) as engine, pytest.raises(TrainingError, match=r"shape \(\)"):
        largest_change(engine, clip, 32)


@contextmanager
def watched(case: Case) -> Iterator[list[int]]:
    asked: list[int] = []
    own = case.loss
    case.loss = lambda batch: asked.append(len(batch.tokens)) or own(batch)
    yield asked


def test_empty_sample_never_reaches_the_model() -> None:
    case = token_classifier()
    with watched(case) as asked, case.engine() as engine:
        nothing = clipped_gradient_sum(
            engine, Texts(), np.array([], dtype=np.int64), l2_clip_norm=1.0, physical_batch_size=4
        )
    assert asked == []
    assert not nothing.any()
    assert len(nothing) == sum(parameter.numel() for parameter in case.parameters.values())
