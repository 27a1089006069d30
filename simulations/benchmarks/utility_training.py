"""One cell of the utility benchmark: from its recipe to an accuracy and the epsilon it spent."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from models.layout import Vector
from models.tokens import TokenisedData
from privacy.accounting import COLLUDING_SITES, COORDINATOR, adversary_bounds
from privacy.dpsgd import DpSgdPlan
from privacy.events import DpEvent, PrivacyMode
from privacy.order import LoraSpec
from privacy.randomness import SeededRandomSource
from privacy.secagg.threshold import default_collusion_bound
from server.run_spec import JOINT_STRATEGY, ModelSection, RunSection, RunSpec, TrainingSection
from simulations.benchmarks.frozen_head import HEAD_ONLY, Encoder, FrozenHead, accuracy
from simulations.benchmarks.intents import Intents, Rows, load_intents, split_over_sites
from simulations.benchmarks.mode_arithmetic import (
    run_central,
    run_joint,
    run_local,
    run_plain,
    run_plain_federated,
    seeded,
)
from simulations.benchmarks.unsigned_agreement import plan_under, unsigned_agreement
from simulations.benchmarks.utility_budget import noise_multiplier_for
from simulations.benchmarks.utility_cells import Cell, Outcome
from simulations.benchmarks.utility_recipes import (
    ABLATIONS,
    DELTA,
    MOMENTUM,
    PLAIN_LORA_ALPHA,
    Recipe,
    adapter_of,
    fewest_sites,
    multiplier_factor,
    noise_factor,
    recipe_of,
)
from strategies.orders import OrderBook

#: without privacy, AdamW: epochs (federated: rounds of an epoch at each site), batch size, rate; by mode and adapter
_PLAIN = {
    ("plain", True): (10, 64, 2e-3),
    ("federated", True): (60, 64, 1e-3),
    ("plain", False): (3, 32, 1e-3),
    ("federated", False): (6, 32, 1e-3),
}


@dataclass(frozen=True)
class _Stage:
    """A model, its records at all sites together, and the test set, as one stage of training sees them."""

    model: Any
    records: Any
    test: Any
    site_records: dict[str, Any]


class Laboratory:
    """Data, model and embeddings, loaded when a cell first asks for them.

    Args:
        data: folder of the data sets.
        encoder: the base model.
        shorten: divides the steps of every private run, to see that it runs.
    """

    def __init__(self, data: Path, encoder: Encoder, *, shorten: int = 1) -> None:
        self._encoder, self._shorten = encoder, shorten
        self._intents = cache(lambda name: load_intents(name, data))
        # one model with an adapter is as much as has to be in memory
        self._adapted: tuple[tuple[str, LoraSpec], Any] | None = None
        self._embedded = cache(self._embed)

    def recipe(self, cell: Cell) -> Recipe | None:
        """How the cell is trained; None without privacy."""
        if cell.epsilon is None:
            return None
        usual = recipe_of(cell.mode, cell.trains, cell.sites, cell.epsilon)
        return (ABLATIONS[cell.ablation](usual) if cell.ablation else usual).shortened(self._shorten)

    def described(self, cell: Cell) -> dict[str, object]:
        """The recipe as it is kept with what the cell gave."""
        recipe = self.recipe(cell)
        if recipe is None:
            epochs, batch_size, rate = _PLAIN[cell.mode, cell.trains == "head"]
            kept = {"epochs": epochs, "batch_size": batch_size, "learning_rate": rate, "optimiser": "AdamW"}
            return kept | {"lora_alpha": _plain_alpha(cell)}
        # what a mode adds is part of how a cell is trained: under another rule of noise it counts as not run
        return asdict(recipe) | {"noise_factor": round(noise_factor(cell.mode, cell.sites), 6)}

    def carry_out(self, cell: Cell) -> Outcome:
        """Train and test.

        Raises:
            DataError: the data are missing.
        """
        started = time.monotonic()
        recipe = self.recipe(cell)
        intents = self._intents(cell.data)
        if recipe is None:
            stage = self._stage(cell, adapter_of(cell.trains, _plain_alpha(cell)))
            vector, events, noise_multiplier = self._plain(cell, stage), [], None
        else:
            spends = [(stage.sample_rate, stage.steps) for stage in recipe.stages()]
            noise_multiplier = noise_multiplier_for(cell.epsilon, DELTA, spends)
            noise_multiplier *= multiplier_factor(cell.mode, cell.sites)
            stage, vector, events = self._private(cell, recipe, noise_multiplier)
        stage.model.set_vector(vector)
        return Outcome(
            cell=cell,
            accuracy_percent=accuracy(stage.model, stage.test),
            epsilon=_spent(cell, events),
            noise_multiplier=noise_multiplier,
            train_records=len(intents.train_texts),
            test_records=len(intents.test_texts),
            trained_parameters=stage.model.layout.length,
            recipe=self.described(cell),
            seconds=round(time.monotonic() - started, 1),
        )

    def _plain(self, cell: Cell, stage: _Stage) -> Vector:
        epochs, batch_size, rate = _PLAIN[cell.mode, cell.trains == "head"]
        start = stage.model.label_name_vector()
        facts = {"batch_size": batch_size, "learning_rate": rate, "seed": cell.seed}
        if cell.mode == "plain":
            return run_plain(stage.model, stage.records, start, epochs=epochs, **facts)
        return run_plain_federated(stage.model, stage.site_records, start, rounds=epochs, **facts)

    def _private(self, cell: Cell, recipe: Recipe, noise_multiplier: float) -> tuple[_Stage, Vector, list[DpEvent]]:
        """Each stage is a run that starts where the one before ended."""
        events: list[DpEvent] = []
        first, done = recipe.head_first, 0
        if first is not None:
            _, vector, events = self._private(cell, first, noise_multiplier)
            done = first.steps
        stage = self._stage(cell, adapter_of(cell.trains, recipe.lora_alpha))
        model = stage.model
        if first is not None:
            start = _with_head(model, vector)
        else:
            start = model.label_name_vector() if recipe.named else model.initial_vector()
        vector, event = self._run(cell, recipe, noise_multiplier, stage, start, done)
        return stage, vector, [*events, event]

    def _run(
        self, cell: Cell, recipe: Recipe, noise_multiplier: float, stage: _Stage, start: Vector, done: int
    ) -> tuple[Vector, DpEvent]:
        model = stage.model
        if cell.mode == "central":
            plan = DpSgdPlan(
                sample_rate=recipe.sample_rate,
                noise_multiplier=noise_multiplier,
                l2_clip_norm=recipe.l2_clip_norm,
                expected_batch_size=recipe.sample_rate * len(stage.records),
                steps=recipe.steps,
            )
            source = SeededRandomSource(cell.seed, f"central/{done}")
            vector = run_central(
                model,
                stage.records,
                plan,
                start,
                learning_rate=recipe.learning_rate,
                momentum=MOMENTUM,
                source=source,
            )
            return vector, plan.event()
        spec = self._spec(cell, recipe, noise_multiplier)
        sites = stage.site_records
        agreement = unsigned_agreement(
            spec,
            list(sites),
            model.labels,
            public_dataset_size=round(len(stage.records) / len(sites)),
            delta=DELTA,
            min_cohort=fewest_sites(cell.mode, cell.sites),
        )
        plan = plan_under(
            spec, agreement, adapter_layout_digest=model.layout.digest(), adapter_length=model.layout.length
        )
        book = OrderBook(plan, last_step=done)
        colluding = agreement.secure_aggregation.collusion_bound
        event = OrderBook(plan).next(1, start).event(colluding)
        event = event.model_copy(update={"steps": recipe.steps})
        if spec.run.mode is PrivacyMode.JOINT:
            return run_joint(model, sites, book, start, colluding, seeded(cell.seed)), event
        return run_local(model, sites, book, start, seeded(cell.seed)), event

    def _spec(self, cell: Cell, recipe: Recipe, noise_multiplier: float) -> RunSpec:
        joint = cell.mode != "local"
        local_steps = recipe.steps if joint else recipe.local_steps
        # A round of one step has no momentum: as far in the end needs larger steps.
        rate = recipe.learning_rate / (1 - MOMENTUM) if local_steps == 1 else recipe.learning_rate
        return RunSpec(
            run=RunSection(
                name="utility",
                rounds=recipe.steps // local_steps,
                mode=PrivacyMode.JOINT if joint else PrivacyMode.LOCAL,
                strategy=JOINT_STRATEGY if joint else "fedavg",
            ),
            model=ModelSection(base=self._encoder.base, max_tokens=self._encoder.max_tokens),
            lora=adapter_of(cell.trains, recipe.lora_alpha),
            training=TrainingSection(
                local_steps=local_steps,
                sample_rate=recipe.sample_rate,
                noise_multiplier=noise_multiplier,
                l2_clip_norm=recipe.l2_clip_norm,
                learning_rate=rate,
                momentum=MOMENTUM,
            ),
        )

    def _stage(self, cell: Cell, adapter: LoraSpec) -> _Stage:
        intents = self._intents(cell.data)
        split = split_over_sites(intents, cell.sites, cell.seed) if cell.sites else {}
        if adapter == HEAD_ONLY:
            base, train, test, train_embedded, test_embedded = self._embedded(cell.data)
            head = FrozenHead(base, centred=cell.trains != "probe")
            whole = head.records(train, train_embedded)
            return _Stage(
                head,
                whole,
                head.records(test, test_embedded),
                {site: whole.at(rows) for site, rows in split.items()},
            )
        if self._adapted is None or self._adapted[0] != (cell.data, adapter):
            self._adapted = ((cell.data, adapter), self._encoder.model(adapter, intents.labels))
        model = self._adapted[1]
        return _Stage(
            model,
            model.tokenise(intents.train_texts, intents.train_labels),
            model.tokenise(intents.test_texts, intents.test_labels),
            {site: _at(rows, intents, model) for site, rows in split.items()},
        )

    def _embed(self, name: str) -> tuple[Any, ...]:
        intents = self._intents(name)
        model = self._encoder.model(HEAD_ONLY, intents.labels)
        train = model.tokenise(intents.train_texts, intents.train_labels)
        test = model.tokenise(intents.test_texts, intents.test_labels)
        return (
            model,
            train,
            test,
            self._encoder.embeddings(model, train, intents.train_texts),
            self._encoder.embeddings(model, test, intents.test_texts),
        )


def _plain_alpha(cell: Cell) -> float | None:
    return None if cell.trains == "head" else PLAIN_LORA_ALPHA


def _at(rows: Rows, intents: Intents, model: Any) -> TokenisedData:
    """The records of one site, tokenised."""
    return model.tokenise([intents.train_texts[row] for row in rows], [intents.train_labels[row] for row in rows])


def _with_head(model: Any, head: Vector) -> Vector:
    """The adapter a second stage starts from: the head of the first, LoRA that changes nothing."""
    tensors = dict(model.layout.unflatten(model.initial_vector()))
    (name,) = (name for name in model.layout.names if ".lora_" not in name)
    tensors[name] = np.asarray(head).reshape(tensors[name].shape)
    return model.layout.flatten(tensors)


def _spent(cell: Cell, events: list[DpEvent]) -> float | None:
    if not events:
        return None
    # The seeds of a benchmark are no secret, and the data no private ones: what secret noise would have given.
    bounds = adversary_bounds(
        events, DELTA, collusion_bound=default_collusion_bound(max(cell.sites, 4)), noise_secret=True
    )
    return bounds[COORDINATOR if cell.mode == "joint-alone" else COLLUDING_SITES].epsilon
