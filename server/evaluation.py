"""Accuracy of the global adapter on the coordinator's public test set. No site's data is involved."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from client.data import LoadedData, load_records
from models.classifier import AdapterModel
from server.run_spec import EvaluationSection


@dataclass(frozen=True)
class Evaluation:
    """Figures over the whole public test set."""

    accuracy: float
    examples: int


class PublicTestSet:
    """A labelled test set, read once.

    Raises:
        DataError: the file, a column or a label cannot be used.
    """

    def __init__(self, section: EvaluationSection, labels: tuple[str, ...]) -> None:
        self._data: LoadedData = load_records(
            section.data, section.text_column, section.label_column, labels, profile=None
        )

    def evaluate(self, model: AdapterModel) -> Evaluation:
        """Return the share of texts whose most likely label is right."""
        predicted = model.predict(self._data.texts)
        expected = np.asarray(self._data.labels)
        return Evaluation(accuracy=float(np.mean(predicted == expected)), examples=len(expected))
