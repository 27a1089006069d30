"""Honest coordinator, honest sites, any network: a step gives the exact sum of its survivors, or burns and says why.

Frames are delivered in any order between sites, late, twice or never; sites are lost and deadlines pass at any time,
over all the steps of an epoch. A site may still be busy with one step when the coordinator has begun the next.
"""

from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from privacy.secagg import (
    Burnt,
    Ended,
    SendTo,
    SitePhase,
    Stage,
    Summed,
    messages,
    next_history,
    site,
    site_step,
    uploads,
)
from privacy.secagg.messages import REASON_MAX_BYTES, Announce, Reveal, Shares, decode
from privacy.secagg.phases import FINAL_PHASES, GONE_STAGES, CoordinatorPhase
from privacy.secagg.surplus import Contribution
from tacit.errors import IllegalEvent, RepeatedStep
from tests.privacy.secagg.conftest import Step, freeze


class Epoch(Step):
    """Steps of an epoch, on links that keep the order of each direction and nothing else.

    A site expects the next step when one has ended for it, whatever the others do.
    """

    def __init__(self, n, **options):
        self.results = {}
        self.ends = {}
        self.participants = ()
        #: what these send is lost, until the next deadline
        self.muted = set()
        self.reached = Counter()
        super().__init__(n, **options)
        self.tamper_up = lambda name, frame: None if name in self.muted else frame

    def _site_effects(self, name, effects):
        super()._site_effects(name, effects)
        for effect in effects:
            if isinstance(effect, Ended):
                assert (effect.step, name) not in self.ends, "a step ends once"
                self.ends[effect.step, name] = effect
                last = self.sites[name].descriptor
                if last.step < last.last_step:
                    history = next_history(last.history, effect.survivors, effect.total)
                    self.sites[name].expect(last.following(history))

    def coordinator_effects(self, effects):
        self.reached[self.coordinator.phase] += 1
        for effect in effects:
            if isinstance(effect, SendTo) and isinstance(message := decode(effect.frame), Announce):
                self.participants = message.participants
            elif isinstance(effect, Summed | Burnt):
                assert self.descriptor.step not in self.results, "a step ends once"
                self.results[self.descriptor.step] = effect
                self._check_end(effect)
        super().coordinator_effects(effects)

    def _check_end(self, result):
        """At the moment it ends: the exact sum of enough survivors and no secret too many, or a reason."""
        required = max(self.descriptor.threshold, self.descriptor.min_cohort)
        if isinstance(result, Burnt):
            assert f"step {self.descriptor.step} of run {self.descriptor.run_id} was burnt in phase" in result.reason
            assert any(name in result.reason for name in self.names)
            self.reached[f"burnt in {result.reason.split(' in phase ')[1].split(':')[0]}"] += 1
            return
        assert set(result.survivors) <= set(self.participants)
        assert len(result.survivors) >= required
        np.testing.assert_array_equal(result.total, self.expected(result.survivors))
        assert result.total.dtype == self.descriptor.ring.dtype
        for owner, peer in self.revealed_secrets():
            assert owner in result.survivors, "a secret of a dropped site was revealed"
            assert peer is None or peer not in result.survivors, "both secrets that hide a survivor were revealed"

    def revealed_secrets(self):
        """All seeds and shares the coordinator was given in this step: whose, and the peer of k or None for b."""
        ctx = self.descriptor.ctx()
        for name, frame in self.received:
            message = decode(frame)
            if isinstance(message, Reveal) and message.ctx == ctx:
                yield name, None
                yield from ((name, peer) for peer, _ in message.pair_seeds)
            elif isinstance(message, Shares) and message.ctx == ctx:
                self.reached["shares opened"] += 1
                for row in message.rows:
                    owners = [None, *(peer for peer in self.participants if peer != row.dealer)]
                    opened = zip(owners, row.entries, strict=True)
                    yield from ((row.dealer, owner) for owner, entry in opened if len(entry) == 33)

    def next_step(self):
        """Begin the next step at the coordinator alone, if there is one and enough sites are left for it."""
        last = self.descriptor
        if not self.coordinator.can_begin() or last.step == last.last_step:
            return False
        result = self.results[last.step]
        survivors, total = (result.survivors, result.total) if isinstance(result, Summed) else ((), None)
        self.descriptor = last.following(next_history(last.history, survivors, total))
        self.vectors = self._draw()
        self.coordinator_effects(self.coordinator.begin(self.descriptor))
        return True

    def deadline(self):
        self.muted.clear()
        super().deadline()

    @property
    def result(self):
        return self.results.get(self.descriptor.step)

    def left(self):
        return [name for name, stage in self.coordinator.stages.items() if stage not in GONE_STAGES]

    def finish_all(self):
        """Let everything be delivered, deadlines pass where nothing moves, and the steps that can be taken be taken."""
        while True:
            self.run()
            if self.coordinator.phase not in FINAL_PHASES:
                self.deadline()
            elif not self.next_step():
                return self

    def check_all_ended(self):
        """Afterwards: every site that is left is at rest, and was told what the coordinator knows, of every step."""
        assert not self.site_errors, "an honest coordinator never breaks the protocol"
        assert Stage.FAILED not in self.coordinator.stages.values(), "honest sites are never blamed"
        if not self.participants:
            return
        for name in self.left():
            assert self.sites[name].phase is SitePhase.IDLE
            assert sorted(step for step, who in self.ends if who == name) == sorted(self.results)
        for (number, name), ended in self.ends.items():
            result = self.results[number]
            if isinstance(result, Burnt):
                assert (ended.survivors, ended.total) == ((), None)
                assert ended.reason == result.reason[:REASON_MAX_BYTES]
            else:
                assert (ended.survivors, ended.reason) == (result.survivors, "")
                if number < self.descriptor.last_step:
                    np.testing.assert_array_equal(ended.total, result.total)
            kept = [record.sent for record in self.kept[name] if record.step == number]
            assert kept == ["uploaded", "locked", "revealed"][: len(kept)]
            assert not (name in ended.survivors and len(kept) < 2), "it survived a step it did not lock"


moves = st.one_of(
    st.tuples(st.just("up"), st.integers(0, 9)),
    st.tuples(st.just("down"), st.integers(0, 9)),
    st.tuples(st.just("run"), st.integers(1, 30)),
    st.tuples(st.just("repeat up"), st.integers(0, 60)),
    st.tuples(st.just("repeat down"), st.integers(0, 60)),
    st.tuples(st.just("call"), st.integers(0, 39)),
    st.tuples(st.just("next"), st.just(0)),
)
troubles = st.one_of(
    st.tuples(st.just("lose"), st.integers(0, 9)),
    st.tuples(st.just("mute"), st.integers(0, 9)),
    st.tuples(st.just("deadline"), st.just(0)),
)


ORDER = list(CoordinatorPhase)
PHASES = [phase for phase in ORDER if phase not in FINAL_PHASES]


@st.composite
def runs_of_trouble(draw):
    """Sites lost or silent in some phases of a step, one phase after the other, and deadlines in between."""
    events = []
    for phase in sorted(draw(st.lists(st.sampled_from(PHASES), min_size=1, max_size=4)), key=ORDER.index):
        events += [("until", phase), ("run", draw(st.integers(0, 12))), draw(troubles)]
        events += draw(st.lists(st.just(("deadline", 0)), max_size=1))
    return events


@st.composite
def scripts(draw):
    """Moves, with up to two runs of troubles among them."""
    script = draw(st.lists(moves, max_size=30))
    for run in draw(st.lists(runs_of_trouble(), max_size=2)):
        at = draw(st.integers(0, len(script)))
        script[at:at] = run
    return script


@st.composite
def parameters(draw):
    """Every n to 6, and every threshold that is allowed with it; a minimum above it now and then."""
    n = draw(st.integers(3, 6))
    allowed = [t for t in range(3, n + 1) if 2 * t - n > 1]
    threshold = draw(st.sampled_from(allowed))
    bounds = [c for c in range(1, n) if 2 * threshold - n > c and threshold - c >= 2]
    return {
        "n": n,
        "threshold": threshold,
        "collusion_bound": draw(st.sampled_from(bounds)),
        "min_cohort": draw(st.sampled_from([2, 2, n])),
        "steps": draw(st.integers(1, 3)),
        "length": draw(st.integers(1, 9)),
        **draw(st.sampled_from([{"ring_bits": 16, "scale": 64.0}, {}, {"ring_bits": 64, "scale": 2.0**40}])),
        "open_uploads_bytes": draw(st.sampled_from([None, 1, 80])),
        "seed": draw(st.integers(0, 2**32 - 1)),
    }


#: Rare among random ones.
SMALL = {"n": 4, "threshold": 3, "collusion_bound": 1, "min_cohort": 2, "steps": 2}
VANISHED = [("until", CoordinatorPhase.REVEAL), ("lose", 3)]


def act(epoch, kind, number):
    if kind == "until":
        epoch.next_step()
        epoch.run(until=lambda: ORDER.index(epoch.coordinator.phase) >= ORDER.index(number))
        return
    name = epoch.names[number % len(epoch.names)]
    is_over = epoch.coordinator.phase in FINAL_PHASES
    match kind:
        case "up" if epoch.up[name]:
            epoch.deliver_up(name)
        case "down" if epoch.down[name]:
            epoch.deliver_down(name)
        case "run":
            budget = iter(range(number))
            epoch.run(until=lambda: next(budget, None) is None)
        case "repeat up" if epoch.received:
            sender, frame = epoch.received[-1 - number % len(epoch.received)]
            if sender not in epoch.gone:
                epoch.give_coordinator(sender, frame)
        case "repeat down" if epoch.sent:
            receiver, frame = epoch.sent[-1 - number % len(epoch.sent)]
            if receiver not in epoch.gone and is_of_now(epoch.sites[receiver], frame):
                epoch.give_site(receiver, frame)
        case "call":
            call_out_of_order(epoch, name, number)
        case "lose":
            epoch.lose(name)
        case "mute":
            epoch.muted.add(name)
        case "deadline" if not is_over:
            epoch.deadline()
        case "next" if is_over:
            epoch.next_step()


def is_of_now(one, frame):
    """Whether a repeated frame belongs to the step the site is in; one of an earlier step is a lie, not an accident."""
    return decode(frame).ctx in (one.descriptor.ctx(), one.descriptor.epoch_ctx())


def call_out_of_order(epoch, name, number):
    """Calls that are never right at this time: they raise, and change nothing."""
    one, coordinator = epoch.sites[name], epoch.coordinator
    before = freeze(one), freeze(coordinator)
    calls = [
        lambda: one.start(),
        lambda: one.upload(Contribution(epoch.vectors[name].copy())),
        lambda: one.expect(one.descriptor),
        lambda: coordinator.begin(epoch.descriptor),
        lambda: coordinator.receive("mallory", b""),
        lambda: coordinator.lost("mallory"),
    ]
    with pytest.raises((IllegalEvent, RepeatedStep)):
        calls[number % len(calls)]()
    assert (freeze(one), freeze(coordinator)) == before


def test_whatever_happens_a_step_gives_the_exact_sum_or_a_reason(monkeypatch):
    """Small pieces, so that vectors and sums are many frames."""
    for module in (messages, site, site_step, uploads):
        monkeypatch.setattr(module, "CHUNK_BYTES", 16)
    reached = Counter()

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(parameters(), scripts())
    @example(SMALL, VANISHED)
    @example(SMALL, [*VANISHED, ("until", CoordinatorPhase.SHARES), ("lose", 1)])
    def check(chosen, script):
        epoch = Epoch(**chosen).start()
        for kind, number in script:
            act(epoch, kind, number)
        epoch.finish_all()
        epoch.check_all_ended()
        reached.update(epoch.reached)
        reached[f"{len(epoch.results)} steps"] += 1

    check()
    burnt_in = {f"burnt in {phase}" for phase in CoordinatorPhase if phase not in FINAL_PHASES}
    missing = {*CoordinatorPhase, *burnt_in, "shares opened", "1 steps", "2 steps", "3 steps"} - set(reached)
    assert not missing, f"the scripts never came to {missing}"


@settings(max_examples=60, deadline=None, derandomize=True)
@given(n=st.integers(3, 9), steps=st.integers(1, 3), data=st.data())
def test_every_pattern_of_dropouts_the_threshold_allows_gives_every_sum(n, steps, data):
    """Each of up to n - t sites is lost at a stage of its own in a step of its own."""
    epoch = Epoch(n, seed=data.draw(st.integers(0, 99)), steps=steps)
    spare = n - epoch.descriptor.threshold
    losses = data.draw(st.lists(st.sampled_from(epoch.names), min_size=min(2, spare), max_size=spare, unique=True))
    stages = [
        Stage.WAITING,
        Stage.ADVERTISED,
        Stage.JOINED,
        Stage.UPLOADING,
        Stage.UPLOADED,
        Stage.LOCKED,
        Stage.REVEALED,
    ]
    when = {name: (data.draw(st.sampled_from([4, 3 + steps])), data.draw(st.sampled_from(stages))) for name in losses}
    epoch.start()

    def due():
        is_now = {name: (epoch.descriptor.step, stage) for name, stage in epoch.coordinator.stages.items()}
        return [name for name in losses if name not in epoch.gone and is_now[name] == when[name]]

    while True:
        for name in due():
            epoch.lose(name)
        epoch.run(until=lambda: bool(due()))
        if not due() and not epoch.next_step():
            break
    assert sorted(epoch.results) == list(range(4, 4 + steps))
    for number, result in epoch.results.items():
        assert isinstance(result, Summed)
        lost_by_now = {name for name, (step, _) in when.items() if step <= number}
        assert set(epoch.names) - lost_by_now <= set(result.survivors)
    epoch.check_all_ended()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(n=st.sampled_from([3, 4, 5, 7, 7]), data=st.data())
def test_sites_that_are_late_are_out_of_one_step_and_welcome_in_the_next(n, data):
    """In each of three steps up to n - t sites fall silent at a stage of their own, until a deadline."""
    epoch = Epoch(n, seed=data.draw(st.integers(0, 99)), steps=3)
    spare = n - epoch.descriptor.threshold
    stages = st.sampled_from([Stage.JOINED, Stage.UPLOADING, Stage.UPLOADED, Stage.LOCKED])
    epoch.start().run(until=lambda: epoch.coordinator.phase is CoordinatorPhase.UPLOAD)
    while True:
        fewest = data.draw(st.sampled_from([0, spare]))
        silent = data.draw(st.lists(st.sampled_from(epoch.names), min_size=fewest, max_size=spare, unique=True))
        late = {name: data.draw(stages) for name in silent}

        def hold_back(name, frame, late=late):
            return None if epoch.coordinator.stages[name] is late.get(name) else frame

        epoch.tamper_up = hold_back
        epoch.finish()
        result = epoch.results[epoch.descriptor.step]
        assert isinstance(result, Summed)
        in_sum = {name for name in epoch.names if late.get(name) not in (Stage.JOINED, Stage.UPLOADING)}
        assert set(result.survivors) == in_sum
        epoch.run()
        if not epoch.next_step():
            break
        assert set(epoch.left()) == set(epoch.participants) == set(epoch.names)
    assert sorted(epoch.results) == [4, 5, 6]
    epoch.check_all_ended()
