"""A site's model and tokenised records, built when the first order says which adapter to train, then kept."""

from __future__ import annotations

from pathlib import Path

from client.data import LoadedData
from models.base import base_model_digest, resolve_model_folder
from models.building import build_classifier
from models.classifier import AdapterModel
from models.compute import Compute
from models.tokens import TokenisedData
from privacy.agreement import Agreement
from privacy.dpsgd import UserRecords
from privacy.events import PrivacyUnit
from privacy.order import LoraSpec, Order
from tacit.errors import ModelError


class Workbench:
    """Holds one base model and one dataset.

    Args:
        base_model: ``package:NAME`` or a local folder.
        agreement: names the digest the model must have, and the labels.
        data: the site's de-identified records.
        compute: device and precision; by default the CPU and float32.

    Raises:
        ModelError: the model folder is unreadable, or is not the agreed model.
    """

    def __init__(self, base_model: str, agreement: Agreement, data: LoadedData, compute: Compute | None = None) -> None:
        self._compute = compute
        self._folder: Path = resolve_model_folder(base_model)
        self._labels = tuple(agreement.task.labels)
        self._data = data
        self._users = None if data.owners is None else UserRecords(data.owners)
        #: what the data are kept by: a privacy unit that they have no key for cannot be protected
        self.data_unit = PrivacyUnit.RECORD if data.owners is None else PrivacyUnit.USER
        self._built: tuple[LoraSpec, int] | None = None
        self._model: AdapterModel | None = None
        self._records: TokenisedData | None = None
        self.base_model_digest = base_model_digest(self._folder)
        if self.base_model_digest != agreement.base_model.digest:
            raise ModelError(
                f"base model {base_model} has digest {self.base_model_digest}, "
                f"the agreement names {agreement.base_model.digest}",
                hint="install the agreed model's files at this site",
            )

    def fit(self, order: Order) -> tuple[AdapterModel, TokenisedData]:
        """Return the model with the order's adapter, and the records tokenised for it. Only called after the gate."""
        wanted = (order.lora, order.training.max_tokens)
        if self._model is None or self._records is None or self._built != wanted:
            self._model = build_classifier(
                self._folder, order.lora, self._labels, order.training.max_tokens, self._compute
            )
            self._records = self._model.tokenise(self._data.texts, self._data.labels).owned_by(self._users)
            self._built = wanted
        return self._model, self._records
