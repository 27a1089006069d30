"""``run.toml``: what an ML engineer asks for. The same file drives a deployed run and a simulation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from models.device_names import DEVICE_PATTERN, Precision
from privacy.events import PrivacyMode
from privacy.options import TrainingOptions
from privacy.order import LoraSpec, Name, Strict
from tacit.errors import ConfigError
from tacit.toml_file import read_toml
from tacit.validation import validated

#: the strategy of mode ``joint``, and of no other
JOINT_STRATEGY = "joint-dp-sgd"


class RunSection(Strict):
    """``[run]``."""

    name: Name
    rounds: int = Field(gt=0, le=10_000)
    strategy: str = "fedavg"
    mode: Annotated[PrivacyMode, Field(strict=False)] = PrivacyMode.LOCAL
    #: seconds a site may take from receiving the order to its upload
    deadline_s: float = Field(gt=0, default=900.0)
    #: seconds to wait for a site to take up the order
    join_deadline_s: float = Field(gt=0, default=120.0)
    #: seconds to wait for the cohort to be connected before the first round
    sites_deadline_s: float = Field(gt=0, default=300.0)
    #: rounds that may end without a sum before the run gives up; each is charged
    max_burnt_rounds: int = Field(ge=0, default=2)

    @model_validator(mode="after")
    def _strategy_fits_the_mode(self) -> RunSection:
        if (self.mode is PrivacyMode.JOINT) != (self.strategy == JOINT_STRATEGY):
            raise ValueError(f'mode "joint" goes with strategy "{JOINT_STRATEGY}", and no other mode does')
        return self


class ModelSection(Strict):
    """``[model]``: the public base model, as the coordinator finds it. Each site names its own copy."""

    base: str
    max_tokens: int = Field(gt=0, default=64)
    #: ``label-names``: the head starts from embeddings of the public label names instead of zeros
    head_start: Literal["zero", "label-names"] = "zero"


class TrainingSection(TrainingOptions):
    """``[training]``: DP-SGD at each site. The normaliser follows from the agreement's public dataset size."""


class ServerSection(Strict):
    """``[server]``: what the coordinator does with the sum."""

    learning_rate: float = Field(gt=0, default=1.0)


class EncodingSection(Strict):
    """``[encoding]``: fixed point. Each coordinate of an update is clipped to +-value_bound."""

    value_bound: float = Field(gt=0, default=4.0)


class EvaluationSection(Strict):
    """``[evaluation]``: a public test set at the coordinator, CSV or JSONL."""

    data: Path = Field(strict=False)
    text_column: str = "text"
    label_column: str = "label"


class SimulatedSite(Strict):
    """``[[simulation.sites]]``: a site's data when the whole run is simulated in one process."""

    name: Name
    #: what it counts, where the agreement weights sums
    weight: int | None = Field(gt=0, default=None)
    data: Path = Field(strict=False)
    text_column: str = "text"
    label_column: str = "label"
    #: says whose a record is; wanted where the agreement's privacy unit is a user, and nowhere else
    key_column: str | None = None


class SimulationSection(Strict):
    """``[simulation]``: only read by ``tacit simulate``.

    ``agreement`` may be a draft nobody has signed yet: a simulation signs it with throw-away identities.
    """

    agreement: Path | None = Field(strict=False, default=None)
    sites: tuple[SimulatedSite, ...] = ()
    #: as in a site's ``site.toml``
    device: str = Field(pattern=DEVICE_PATTERN, default="cpu")
    precision: Precision = "float32"

    @field_validator("sites", mode="before")
    @classmethod
    def _list_to_tuple(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value


class TestingSection(Strict):
    """``[testing]``: reproducible noise. No privacy; refused unless the signed agreement says ``testing: true``."""

    __test__ = False  # not a test class for pytest

    noise_seed: int


class RunSpec(Strict):
    """The whole of ``run.toml``."""

    run: RunSection
    model: ModelSection
    lora: LoraSpec
    training: TrainingSection
    server: ServerSection = ServerSection()
    encoding: EncodingSection = EncodingSection()
    evaluation: EvaluationSection | None = None
    simulation: SimulationSection | None = None
    testing: TestingSection | None = None

    @model_validator(mode="after")
    def _options_fit_the_run(self) -> RunSpec:
        self.training.check_run(self.run.mode, self.run.rounds * self.training.local_steps)
        return self


def load_run_spec(path: Path) -> RunSpec:
    """Read ``run.toml``; paths in it are relative to its own folder.

    Raises:
        ConfigError: unreadable, not TOML, an unknown or missing field, a value out of range.
    """
    spec = validated(RunSpec, read_toml(path), source=str(path))
    return _resolve_paths(spec, path.resolve().parent)


def _resolve_paths(spec: RunSpec, folder: Path) -> RunSpec:
    evaluation = spec.evaluation
    if evaluation is not None:
        evaluation = evaluation.model_copy(update={"data": folder / evaluation.data})
    simulation = spec.simulation
    if simulation is not None:
        sites = tuple(site.model_copy(update={"data": folder / site.data}) for site in simulation.sites)
        agreement = folder / simulation.agreement if simulation.agreement is not None else None
        simulation = simulation.model_copy(update={"sites": sites, "agreement": agreement})
    base = spec.model.base
    if not base.startswith("package:"):
        try:
            base = str(folder / Path(base).expanduser())
        except RuntimeError as error:
            raise ConfigError(f"model.base {base!r} names a home folder that is not known: {error}") from error
    model = spec.model.model_copy(update={"base": base})
    return spec.model_copy(update={"evaluation": evaluation, "simulation": simulation, "model": model})
