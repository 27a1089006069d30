"""Surplus noise in the protocol: shown for the survivors a site locked and for no more, taken off, and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from privacy.secagg import Contribution, Summed, SurplusLayer
from privacy.secagg.messages import Lock, LockRequest, Reveal, RevealRequest, Shares, decode
from privacy.secagg.ring import RingVector
from tacit.errors import CohortTooSmall, MalformedMessage


class Marks:
    """Layers that are easy to tell apart: every coordinate is a number made from the seed."""

    def __init__(self, survivors: tuple[int, ...]) -> None:
        self.survivors = survivors

    def take_off(self, total: RingVector, shown: Sequence[tuple[int, bytes]]) -> None:
        for layer, seed in shown:
            total -= mark(layer, seed)


def mark(layer: int, seed: bytes) -> np.uint32:
    return np.frombuffer(hashlib.sha256(bytes([layer]) + seed).digest(), "<u4", 1)[0] >> np.uint32(20)


def with_surplus(make_step, n: int = 4, **changes):
    """A step whose sites' vectors hold two layers each: one shown with a site lost, one with none."""
    needed = (n - 1, n)
    step = make_step(n, surplus=Marks(needed), threshold=changes.pop("threshold", 3), **changes)
    for index, name in enumerate(step.names):
        seeds = [bytes([index, layer]) * 16 for layer in range(2)]
        step.surplus[name] = tuple(SurplusLayer(count, seed) for count, seed in zip(needed, seeds, strict=True))
    # room for the marks, which are not part of what the vectors may be
    step.vectors = {name: vector // np.uint32(4) & np.uint32(0xFFFF) for name, vector in step.vectors.items()}
    return step


def left_over(step, layers: dict[str, int]) -> np.ndarray:
    """The sum of the survivors' vectors without the first so many layers of each site in ``layers``."""
    total = step.expected(step.result.survivors).copy()
    for name, count in layers.items():
        for layer, shown in enumerate(step.surplus[name][:count]):
            total -= mark(layer, shown.seed)
    return total


def shown(step) -> dict[str, tuple[bytes, ...]]:
    reveals = ((name, decode(frame)) for name, frame in step.received)
    return {name: message.surplus_seeds for name, message in reveals if isinstance(message, Reveal)}


def seeds_of(step, name: str, count: int) -> tuple[bytes, ...]:
    return tuple(layer.seed for layer in step.surplus[name][:count])


def test_with_nobody_lost_every_layer_is_shown_and_taken_off(make_step) -> None:
    step = with_surplus(make_step).start().run()
    assert isinstance(step.result, Summed)
    assert shown(step) == {name: seeds_of(step, name, 2) for name in step.names}
    np.testing.assert_array_equal(step.result.total, left_over(step, dict.fromkeys(step.names, 2)))
    assert not np.array_equal(step.result.total, step.expected(step.names))


@pytest.mark.parametrize(("lost", "layers"), [(0, 2), (1, 1), (2, 0)])
def test_the_more_sites_are_lost_the_fewer_layers_are_shown(make_step, lost: int, layers: int) -> None:
    step = with_surplus(make_step, n=7, threshold=5, auto_upload=False).start().run()
    survivors = step.names[: 7 - lost]
    for name in survivors:
        step.upload(name)
    for name in step.names[7 - lost :]:
        step.lose(name)
    step.finish()
    assert step.result.survivors == survivors
    assert shown(step) == {name: seeds_of(step, name, layers) for name in survivors}
    np.testing.assert_array_equal(step.result.total, left_over(step, dict.fromkeys(survivors, layers)))


def test_what_a_vanished_site_did_not_show_stays_in_the_sum(make_step) -> None:
    step = with_surplus(make_step).start().hold(RevealRequest)
    gone, *others = step.names
    step.lose(gone)
    step.finish()
    assert step.result.survivors == step.names
    assert set(shown(step)) == set(others)
    np.testing.assert_array_equal(step.result.total, left_over(step, dict.fromkeys(others, 2)))


def test_no_seed_leaves_a_site_before_a_quorum_signed_its_lock(make_step) -> None:
    step = with_surplus(make_step).start().hold(RevealRequest)
    sent = b"".join(frame for _, frame in step.received)
    assert not any(layer.seed in sent for layers in step.surplus.values() for layer in layers)
    site, request = step.names[0], decode(step.down[step.names[0]][0])
    assert isinstance(request, RevealRequest)
    step.down[site][0] = replace(request, signatures=request.signatures[:-1]).encode()
    step.deliver_down(site)
    assert isinstance(step.site_errors[site], CohortTooSmall)
    assert site not in shown(step)


def test_a_coordinator_that_hides_a_survivor_is_shown_less(make_step) -> None:
    """It can lock fewer sites than survived, and then the noise is sized for those; never more than were locked."""
    step = with_surplus(make_step).start().hold(LockRequest)
    asked = {name: decode(step.down[name].popleft()) for name in step.names}
    three = step.names[:3]
    signatures = []
    for name in three:
        message = asked[name]
        fewer = replace(
            message,
            survivors=tuple(each for each in message.survivors if each[0] in three),
            parcels=tuple(each for each in message.parcels if each.dealer in three),
        )
        (lock,) = (effect.frame for effect in step.sites[name].receive(fewer.encode()) if hasattr(effect, "frame"))
        signatures.append((name, decode(lock)))
    digest = signatures[0][1].digest
    assert all(isinstance(lock, Lock) and lock.digest == digest for _, lock in signatures)
    quorum = tuple((name, lock.signature) for name, lock in signatures)
    request = RevealRequest(step.descriptor.ctx(), digest, quorum).encode()
    for name in three:
        (reveal,) = (effect.frame for effect in step.sites[name].receive(request) if hasattr(effect, "frame"))
        assert decode(reveal).surplus_seeds == seeds_of(step, name, 1)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_site_that_shows_another_number_of_layers_is_named_and_out(make_step, count: int) -> None:
    step = with_surplus(make_step)
    liar = step.names[1]
    step.lie(liar, Reveal, lambda message: replace(message, surplus_seeds=(message.surplus_seeds * 2)[:count]))
    step.start().finish()
    assert isinstance(step.faults[liar], MalformedMessage)
    assert f"showed {count} layers of its noise; expected 2" in step.faults[liar].message
    assert any(isinstance(decode(frame), Shares) for _, frame in step.received)
    honest = [name for name in step.names if name != liar]
    np.testing.assert_array_equal(step.result.total, left_over(step, dict.fromkeys(honest, 2)))


def test_without_layers_nothing_is_shown_and_a_seed_is_refused(make_step) -> None:
    step = make_step(4).start().run()
    assert set(shown(step).values()) == {()}
    step.assert_exact()
    step = make_step(4)
    step.lie("alpha", Reveal, lambda message: replace(message, surplus_seeds=(bytes(32),)))
    step.start().finish()
    assert "expected 0" in step.faults["alpha"].message


def test_layers_are_forgotten_with_the_other_secrets(make_step) -> None:
    step = with_surplus(make_step).start().hold(RevealRequest)
    site = step.sites["alpha"]
    assert site._step._secrets.surplus == step.surplus["alpha"]
    step.deliver_down("alpha")
    assert site._step._secrets is None
    assert Contribution(step.vectors["alpha"]).surplus == ()
