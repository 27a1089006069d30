"""Both sides of the benchmark do the work they are timed for: they open the right sums."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.common import bytes_to_ndarray
from flwr.supercore.task_identity import TaskIdentity

from privacy.secagg import default_threshold
from simulations.benchmarks import flower_secagg, secure_step
from simulations.benchmarks.flower_secagg import FlowerRound

UNIT = 1 / secure_step.SCALE


@pytest.mark.parametrize("dropped", [0, 1])
def test_flower_opens_the_mean_of_the_survivors(dropped: int) -> None:
    rng = np.random.default_rng(3)
    flower = FlowerRound(4, 3)
    survivors = range(1, 5 - dropped)
    values = {node: rng.uniform(-1, 1, 100).astype(np.float32) for node in survivors}
    for node in survivors:
        flower.take_upload(flower.upload(node, values[node]))
    opened = flower.unmask(survivors)
    assert opened.finished
    assert not opened.refused
    assert np.abs(opened.mean - np.mean(list(values.values()), axis=0)).max() <= UNIT


def test_what_flowers_client_uploads_is_masked() -> None:
    """The test above could not fail if nothing were masked: unmasked, every value lies below 2^22."""
    _, upload = (bytes_to_ndarray(array) for array in FlowerRound(4, 3).upload(1, np.zeros(1000, np.float32)))
    assert np.count_nonzero(upload > flower_secagg.QUANTIZATION_RANGE) > 990


def test_flower_is_measured_and_leaves_no_trace() -> None:
    before = (TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id)
    cost = flower_secagg.measure(np.zeros(2000, np.float32), 4, 1, 3)
    assert cost.client_s > cost.quantize_s > 0
    assert cost.unmask_s > 0
    assert 8 * 2000 < cost.upload_bytes < 8 * 2000 + 1000
    assert (TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id) == before


@pytest.mark.parametrize(("sites", "dropped"), [(4, 0), (4, 1), (10, 3)])
def test_ours_opens_the_sum_of_the_survivors(sites: int, dropped: int) -> None:
    values = np.random.default_rng(4).uniform(-1, 1, 100).astype(np.float32)
    cost = secure_step.run_step(values, sites, dropped)
    assert cost.survivors == secure_step.site_names(sites)[: sites - dropped]
    found = secure_step.decode(cost.total, secure_step.SCALE, len(cost.survivors))
    assert np.abs(found - len(cost.survivors) * values).max() <= len(cost.survivors) * UNIT


def test_ours_is_charged_to_who_did_it_and_when() -> None:
    cost = secure_step.run_step(np.zeros(2000, np.float32), 4, 1)
    assert set(cost.sites_s) == set(cost.survivors)
    for phases in cost.sites_s.values():
        assert {"encode", "setup", "upload", "lock", "reveal"} <= set(phases)
    assert {"setup", "upload", "lock", "reveal", "unmask", "decode"} <= set(cost.coordinator_s)
    assert cost.open_s == cost.coordinator_s["unmask"] + cost.coordinator_s["decode"]
    assert cost.sent_bytes > 4 * 2000


def test_both_encode_with_the_same_resolution_and_the_same_threshold() -> None:
    assert secure_step.SCALE == flower_secagg.QUANTIZATION_RANGE / (2 * flower_secagg.CLIPPING_RANGE)
    assert secure_step.VALUE_BOUND == flower_secagg.CLIPPING_RANGE
    assert secure_step.describe(secure_step.site_names(10), 5).threshold == default_threshold(10)
