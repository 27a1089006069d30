"""Orders and receipts: the same bytes for the same order, and nothing in them that is not checked."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from privacy.events import PrivacyUnit, SubsampledGaussian
from privacy.order import Order, Receipt, WeightSpec
from tacit.canonical import canonical_json

ORDER: dict[str, Any] = {
    "tacit_order": 1,
    "run_id": "0123456789abcdef",
    "run_name": "first-run",
    "epoch": 2,
    "round": 2,
    "rounds_planned": 5,
    "step": 3,
    "strategy": "fedavg",
    "mode": "local",
    "unit": "record",
    "adjacency": "add-remove",
    "agreement_digest": "sha256:" + "a" * 64,
    "base_model_digest": "sha256:" + "b" * 64,
    "adapter_layout_digest": "sha256:" + "c" * 64,
    "adapter_state_digest": "sha256:" + "d" * 64,
    "adapter_length": 1234,
    "lora": {"rank": 8, "alpha": 16.5, "targets": ["query", "value"], "freeze_a": False},
    "labels": ["lost", "transfer"],
    "training": {
        "local_steps": 10,
        "sample_rate": 0.05,
        "expected_batch_size": 62.5,
        "noise_multiplier": 1.25,
        "l2_clip_norm": 0.5,
        "learning_rate": 0.125,
        "momentum": 0.75,
        "max_tokens": 64,
        "schedule": "linear",
        "warmup_steps": 3,
        "adam": None,
        "clipping": "per-layer",
        "layer_weights": [{"layer": "classifier", "weight": 2.5}],
        "adaptive_clipping": {
            "quantile": 0.75,
            "learning_rate": 0.25,
            "count_noise_stddev": 3.5,
            "min_l2_clip_norm": 0.125,
            "max_l2_clip_norm": 1.5,
        },
        "max_records_per_user": None,
    },
    "secagg": {
        "cohort": ["alpha", "beta", "gamma"],
        "threshold": 3,
        "steps": 2,
        "min_cohort": 3,
        "ring_bits": 32,
        "weights": {"cap": 10, "bin": 10},
        "scale": 65536.5,
        "value_bound": 4.5,
    },
    "deadline_s": 600.5,
    "seen_heads": [
        {
            "site": "alpha",
            "tree_size": 7,
            "tree_root": "c0" * 32,
            "tree_timestamp": "2026-01-31T00:00:00Z",
            "tree_signature": "c2lnbmVk",
        }
    ],
    "test_noise_seed": None,
}


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    else:
        yield path


def put(path: tuple[Any, ...], new: Any) -> dict[str, Any]:
    data = copy.deepcopy(ORDER)
    target: Any = data
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = new
    return data


def get(path: tuple[Any, ...]) -> Any:
    value: Any = ORDER
    for step in path:
        value = value[step]
    return value


def test_an_order_survives_the_wire() -> None:
    order = Order.model_validate(ORDER)
    assert order.model_dump(mode="json") == ORDER
    assert Order.model_validate(json.loads(canonical_json(order.model_dump(mode="json")))) == order


def test_the_digest_is_what_an_independent_computation_gives() -> None:
    # every float above has a fraction, so Python's shortest form is RFC 8785's
    text = json.dumps(ORDER, sort_keys=True, separators=(",", ":"))
    expected = hashlib.sha256(b"tacit/order/v1\0" + text.encode()).hexdigest()
    assert Order.model_validate(ORDER).digest() == f"sha256:{expected}"


def other(value: Any) -> Any:
    if value is None:
        return 0
    if isinstance(value, bool):
        return not value
    if isinstance(value, list):
        return value[:-1] if isinstance(value[-1], dict) else [*value[:-1], value[-1] + "x"]
    if isinstance(value, float):
        return value / 2
    if isinstance(value, int):
        return value + 1
    return value[:-1] + ("0" if value[-1] != "0" else "1")


def test_every_field_decides_the_digest() -> None:
    digests = {Order.model_validate(ORDER).digest()}
    fixed = {("tacit_order",), ("mode",), ("unit",), ("adjacency",), ("secagg", "ring_bits")}
    # cap and bin each alone would be no whole number of bins
    fixed |= {("secagg", "weights", "cap"), ("secagg", "weights", "bin")}
    fixed |= {("training", "schedule"), ("training", "clipping"), ("training", "adam")}
    # goes with unit user, and is tested with it
    fixed |= {("training", "max_records_per_user")}
    paths = [path for path in leaves(ORDER) if path not in fixed]
    assert len(paths) == 41
    for path in paths:
        digests.add(Order.model_validate(put(path, other(get(path)))).digest())
    assert len(digests) == len(paths) + 1
    options: list[dict[str, Any]] = [
        {"schedule": "cosine"},
        {"clipping": "flat", "layer_weights": []},
        {"clipping": "per-layer", "layer_weights": []},
        {"adaptive_clipping": None},
        {"momentum": 0.0},
        {"momentum": 0.0, "adam": {}},
        *({"momentum": 0.0, "adam": {field: 0.5}} for field in ("beta1", "beta2", "variance_floor", "weight_decay")),
    ]
    for changes in options:
        digests.add(Order.model_validate(put(("training",), ORDER["training"] | changes)).digest())
    # {"clipping": "per-layer", "layer_weights": []} is one of the paths above
    assert len(digests) == len(paths) + len(options)


def test_unit_user_comes_with_a_contribution_bound_which_decides_the_digest() -> None:
    def bounded(bound: int | None) -> dict[str, Any]:
        return put(("training", "max_records_per_user"), bound) | {"unit": "user"}

    with pytest.raises(ValidationError, match="unit user needs max_records_per_user"):
        Order.model_validate(bounded(None))
    digests = {Order.model_validate(bounded(bound)).digest() for bound in (1, 2)}
    assert len(digests | {Order.model_validate(ORDER).digest()}) == 3
    assert Order.model_validate(bounded(2)).event().unit is PrivacyUnit.USER
    with pytest.raises(ValidationError, match="greater than 0"):
        Order.model_validate(bounded(0))


def test_every_field_but_the_defaults_must_be_said() -> None:
    optional = {("tacit_order",), ("seen_heads",), ("test_noise_seed",), ("training", "momentum")}
    optional |= {("training", "max_records_per_user")}
    optional |= {("secagg", "steps"), ("secagg", "ring_bits"), ("lora", "freeze_a")}
    optional |= {("training", option) for option in ("schedule", "warmup_steps", "adam", "layer_weights")}
    optional |= {("training", "adaptive_clipping", option) for option in ("quantile", "learning_rate")}
    for path in leaves(ORDER):
        if path == ("training", "clipping"):
            continue  # flat if nothing is said, and then there are no layer weights
        data = copy.deepcopy(ORDER)
        target: Any = data
        for step in path[:-1]:
            target = target[step]
        del target[path[-1]]
        if path in optional:
            Order.model_validate(data)
        else:
            with pytest.raises(ValidationError, match="Field required"):
                Order.model_validate(data)


@pytest.mark.parametrize("path", [(), ("lora",), ("training",), ("secagg",)])
def test_an_unknown_field_is_refused(path: tuple[Any, ...]) -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        Order.model_validate(put((*path, "surplus"), 1))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("tacit_order",), 2),
        (("run_id",), "0123456789ABCDEF"),
        (("run_id",), "0123456789abcdef\n"),
        (("run_id",), "../../../../etc/x"),
        (("run_name",), "First"),
        (("run_name",), "a" * 64),
        (("epoch",), -1),
        (("round",), 0),
        (("round",), 6),
        (("round",), 2.0),
        (("step",), 0),
        (("step",), True),
        (("mode",), "central"),
        (("unit",), "household"),
        (("unit",), "user"),
        (("training", "max_records_per_user"), 4),
        (("adjacency",), "replace-one"),
        (("agreement_digest",), "sha256:" + "A" * 64),
        (("agreement_digest",), "a" * 64),
        (("base_model_digest",), "sha256:" + "a" * 63),
        (("adapter_length",), 0),
        (("lora", "rank"), 0),
        (("lora", "rank"), 257),
        (("lora", "targets"), []),
        (("lora", "targets"), "query"),
        (("labels",), ["one"]),
        (("labels",), ["a", 2]),
        (("training", "local_steps"), 0),
        (("training", "sample_rate"), 0.0),
        (("training", "sample_rate"), 1.5),
        (("training", "noise_multiplier"), 0.0),
        (("training", "noise_multiplier"), math.nan),
        (("training", "noise_multiplier"), math.inf),
        (("training", "noise_multiplier"), "1.0"),
        (("training", "l2_clip_norm"), -1.0),
        (("training", "momentum"), 1.0),
        (("training", "max_tokens"), 100_000),
        (("training", "schedule"), "step"),
        (("training", "warmup_steps"), -1),
        (("training", "warmup_steps"), 50),
        (("training", "adam"), {}),  # beside a momentum
        (("training", "clipping"), "flat"),  # beside layer weights
        (("training", "layer_weights"), [{"layer": "a", "weight": 1.0}, {"layer": "a", "weight": 2.0}]),
        (("training", "layer_weights"), [{"layer": "a", "weight": 0.0}]),
        (("training", "adaptive_clipping", "quantile"), 1.0),
        (("training", "adaptive_clipping", "count_noise_stddev"), 0.625),
        (("training", "adaptive_clipping", "min_l2_clip_norm"), 0.75),
        (("training", "adaptive_clipping", "max_l2_clip_norm"), 0.25),
        (("secagg", "cohort"), ["alpha"]),
        (("secagg", "cohort"), ["beta", "alpha"]),
        (("secagg", "cohort"), ["alpha", "alpha"]),
        (("secagg", "cohort"), ["alpha", "Beta"]),
        (("secagg", "threshold"), 1),
        (("secagg", "min_cohort"), 1),
        (("secagg", "ring_bits"), 8),
        (("secagg", "steps"), 0),
        (("secagg", "weights"), {"cap": 10, "bin": 3}),
        (("secagg", "weights"), {"cap": 0, "bin": 1}),
        (("secagg", "weights"), {"cap": 10}),
        (("secagg", "scale"), 0.0),
        (("secagg", "value_bound"), math.inf),
        (("deadline_s",), 0.0),
        (("test_noise_seed",), 1.5),
        (("test_noise_seed",), "1"),
    ],
)
def test_a_malformed_order_is_refused(path: tuple[Any, ...], value: Any) -> None:
    with pytest.raises(ValidationError):
        Order.model_validate(put(path, value))


def test_an_order_does_not_change() -> None:
    order = Order.model_validate(ORDER)
    with pytest.raises(ValidationError, match="frozen"):
        order.round = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        order.training.noise_multiplier = 0.0  # type: ignore[misc]


def test_an_orders_event_says_what_it_spends() -> None:
    assert Order.model_validate(ORDER).event() == SubsampledGaussian.model_validate(
        {
            "mode": "local",
            "unit": "record",
            "adjacency": "add-remove",
            "noise_multiplier": 1.25,
            "sample_rate": 0.05,
            "steps": 10,
        }
    )


RECEIPT: dict[str, Any] = {
    "tacit_receipt": 1,
    "site": "alpha",
    "run_id": "0123456789abcdef",
    "round": 2,
    "step": 3,
    "outcome": {"status": "refused", "reason": "policy", "message": "this site accepts no runs"},
    "ctx": "",
    "epsilon_spent": 1.5,
    "epsilon_run": 0.5,
    "delta": 1e-5,
    "bytes_sent": 10,
    "tree_size": 4,
    "tree_root": "00" * 32,
    "tree_timestamp": "2026-01-31T00:00:00Z",
    "tree_signature": "",
    "tree_consistency": ["ab" * 32],
}


def test_a_receipt_survives_the_wire() -> None:
    receipt = Receipt.model_validate(RECEIPT)
    assert receipt.model_dump(mode="json") == RECEIPT
    assert Receipt.model_validate_json(receipt.model_dump_json()) == receipt


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("examples", 1200),
        ("loss", 0.3),
        ("outcome", {"status": "maybe"}),
        ("outcome", {"status": "completed", "accuracy": 0.9}),
        ("epsilon_spent", -1.0),
        ("site", "Alpha"),
    ],
)
def test_a_receipt_has_no_room_for_what_depends_on_data(field: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        Receipt.model_validate(RECEIPT | {field: value})


@pytest.mark.parametrize(("declared", "counted"), [(1, 10), (9, 10), (10, 10), (29, 20), (100, 100), (5000, 100)])
def test_a_declared_weight_is_capped_and_binned(declared: int, counted: int) -> None:
    assert WeightSpec(cap=100, bin=10).binned(declared) == counted


def test_weights_add_a_coordinate() -> None:
    order = Order.model_validate(ORDER)
    assert order.vector_length == order.adapter_length + 1
    assert Order.model_validate(put(("secagg", "weights"), None)).vector_length == order.adapter_length


def test_the_count_of_adaptive_clipping_is_a_coordinate_of_joint_sums_only() -> None:
    local = put(("secagg", "weights"), None)
    joint = local | {"mode": "joint"}
    assert Order.model_validate(local).vector_length == 1234
    assert Order.model_validate(joint).vector_length == 1235
    joint["training"] = joint["training"] | {"adaptive_clipping": None}
    assert Order.model_validate(joint).vector_length == 1234


def test_the_options_do_not_change_what_an_order_spends() -> None:
    plain = {"schedule": "constant", "clipping": "flat", "layer_weights": [], "adaptive_clipping": None}
    for data in (put(("secagg", "weights"), None), put(("secagg", "weights"), None) | {"mode": "joint"}):
        spent = Order.model_validate(data).event(collusion_bound=1)
        without = Order.model_validate(data | {"training": data["training"] | plain}).event(collusion_bound=1)
        assert spent.model_dump(exclude={"grid"}) == without.model_dump(exclude={"grid"})
