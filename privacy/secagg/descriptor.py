"""What a secure step is: every parameter that decides what the masks hide and what the sum means.

``ctx``, the hash of a descriptor, enters every mask seed: sites that were shown different models, cohorts or
parameters derive masks that do not cancel (design, section 5, R0). A site builds the descriptor from its own
order and compares the coordinator's announcement with it byte for byte; it never acts on a parsed one.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache

from privacy.order import Order
from privacy.secagg.keys import labelled_hash
from privacy.secagg.ring import Ring, RingVector
from tacit.canonical import canonical_json, parse_json
from tacit.errors import DescriptorMismatch, EncodingRange, InputError, MalformedMessage

_LABEL = b"tacit/secagg/descriptor/v2\0"
_EPOCH_LABEL = b"tacit/secagg/epoch/v2\0"
#: fields in which the steps of one epoch differ
_OF_THE_STEP = ("step", "history")
_RUN_ID = re.compile(r"[0-9a-f]{16}\Z")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\Z")


@dataclass(frozen=True, slots=True)
class StepDescriptor:
    """One secure step. Hashable, and equal exactly when :meth:`encode` gives equal bytes.

    Raises:
        MalformedMessage: a name, digest or number is not of its form, or the cohort is not sorted and unique.
        EncodingRange: the ring, scale, bound or length cannot describe an encoding.
    """

    run_id: str
    """16 lower-case hex digits."""
    epoch: int
    """Counts key setups; one key setup serves the steps of one epoch."""
    round: int
    first_step: int
    """The epoch's first step."""
    steps: int
    """How many steps the epoch may have: ``first_step`` to ``first_step + steps - 1``."""
    step: int
    """Counts attempts over the whole run; a site never takes one twice."""
    history: str
    """``sha256:<hex>`` of what the epoch's earlier steps gave (:func:`next_history`); the order's digest at first.
    Sites that were told different sums derive masks that do not cancel."""
    cohort: tuple[str, ...]
    """Names of the sites, sorted, without repeats."""
    threshold: int
    """Sites that must lock, and sites whose shares rebuild a secret (``t``)."""
    min_cohort: int
    """Fewest survivors a sum may have, by agreement."""
    collusion_bound: int
    """Sites that may collude with each other and the coordinator (``c``)."""
    ring_bits: int
    scale: float
    """One unit of the update is ``scale`` units of the ring."""
    value_bound: float
    """Each coordinate lies in ``[-value_bound, value_bound]`` before it is encoded."""
    length: int
    """Coordinates in the vector (``d``)."""
    order_digest: str
    """``sha256:<hex>`` of the order: agreement, base model, adapter layout and state, training, mechanism."""

    def __post_init__(self) -> None:
        if not _RUN_ID.match(self.run_id):
            raise MalformedMessage(f"run id {self.run_id!r} is not 16 lower-case hex digits")
        for name in ("order_digest", "history"):
            if not _DIGEST.match(getattr(self, name)):
                raise MalformedMessage(f"{name} {getattr(self, name)!r} is not sha256:<64 hex digits>")
        if list(self.cohort) != sorted(set(self.cohort)) or not all(map(_NAME.match, self.cohort)):
            raise MalformedMessage(f"cohort {list(self.cohort)} is not a sorted list of site names without repeats")
        for name in ("epoch", "round", "first_step", "steps", "step", "threshold", "min_cohort", "collusion_bound"):
            if not 0 <= getattr(self, name) < 2**32:
                raise MalformedMessage(f"{name} is {getattr(self, name)}; expected 0 to 2^32 - 1")
        if not self.first_step <= self.step <= self.last_step:
            raise MalformedMessage(
                f"step {self.step} is not one of the epoch's {self.steps} steps from {self.first_step} on"
            )
        Ring(self.ring_bits)
        if not 0 < self.length < 2**32:
            raise EncodingRange(f"a vector of {self.length} coordinates was asked for; expected 1 to 2^32 - 1")
        for name in ("scale", "value_bound"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise EncodingRange(f"{name} is {getattr(self, name)}; expected a finite number above zero")

    @property
    def last_step(self) -> int:
        """The last step the epoch may have."""
        return self.first_step + self.steps - 1

    @property
    def ring(self) -> Ring:
        """The ring in which the vectors are added."""
        return Ring(self.ring_bits)

    @property
    def vector_bytes(self) -> int:
        """Size of one masked vector."""
        return self.ring.size_bytes * self.length

    def encode(self) -> bytes:
        """Return the RFC 8785 canonical JSON of all fields: the bytes that are announced and compared."""
        return _encoded(self)

    def ctx(self) -> bytes:
        """Return the 32-byte SHA-256 of :meth:`encode` under its own label."""
        return hashlib.sha256(_LABEL + self.encode()).digest()

    def encode_epoch(self) -> bytes:
        """Return the canonical JSON of the fields that all steps of the epoch share."""
        return _encoded_epoch(self)

    def epoch_ctx(self) -> bytes:
        """Return the 32-byte SHA-256 of :meth:`encode_epoch`: what a key setup is bound to."""
        return hashlib.sha256(_EPOCH_LABEL + self.encode_epoch()).digest()

    def following(self, history: str) -> StepDescriptor:
        """Return the epoch's next step, after earlier ones that gave ``history``.

        Raises:
            MalformedMessage: this was the last one.
        """
        return replace(self, step=self.step + 1, history=history)

    def check_announced(self, announced: bytes) -> None:
        """Compare a coordinator's announcement with this, the site's own, descriptor.

        Raises:
            DescriptorMismatch: the bytes differ; the message names the fields that do.
        """
        if announced != self.encode():
            raise DescriptorMismatch(
                "the coordinator announced another step than this site was ordered to take: "
                + self._difference(announced, ()),
                hint="the coordinator must announce the descriptor of the order it sent; ask its operator",
            )

    def check_announced_epoch(self, announced: bytes) -> None:
        """Compare a coordinator's description of an epoch with this site's own.

        Raises:
            DescriptorMismatch: the bytes differ; the message names the fields that do.
        """
        if announced != self.encode_epoch():
            raise DescriptorMismatch(
                "the coordinator announced another epoch than this site was ordered to take: "
                + self._difference(announced, _OF_THE_STEP),
                hint="the coordinator must announce the epoch of the order it sent; ask its operator",
            )

    def _difference(self, announced: bytes, without: tuple[str, ...]) -> str:
        """Say which fields differ, for people; nothing is decided from it."""
        try:
            other = parse_json(announced)
        except InputError:
            other = None
        if not isinstance(other, dict):
            return "the announcement is not a descriptor"
        mine = asdict(self) | {"cohort": list(self.cohort)}
        parts = [
            f"{name}: announced {str(other.get(name, 'nothing'))[:80]}, ordered {str(mine[name])[:80]}"
            for name in (field.name for field in fields(self))
            if name not in without and other.get(name) != mine[name]
        ]
        return "; ".join(parts) or "the bytes are not canonical"


@lru_cache(maxsize=64)
def _encoded(descriptor: StepDescriptor) -> bytes:
    """A step encodes its descriptor once for each key it checks; this way it is worked out once."""
    return canonical_json(asdict(descriptor))


@lru_cache(maxsize=64)
def _encoded_epoch(descriptor: StepDescriptor) -> bytes:
    return canonical_json({name: value for name, value in asdict(descriptor).items() if name not in _OF_THE_STEP})


def next_history(history: str, survivors: tuple[str, ...], total: RingVector | None) -> str:
    """Return the history after a step that gave ``total`` over ``survivors``, or was burnt (``None``)."""
    if total is None:
        return "sha256:" + labelled_hash("burnt", history.encode()).hex()
    names = ",".join(survivors).encode()
    found = hashlib.sha256(total.data.cast("B")).digest()
    return "sha256:" + labelled_hash("history", history.encode(), names, found).hex()


def descriptor_for(order: Order, collusion_bound: int) -> StepDescriptor:
    """Return the descriptor of ``order``'s first secure step; ``collusion_bound`` comes from the agreement."""
    return StepDescriptor(
        run_id=order.run_id,
        epoch=order.epoch,
        round=order.round,
        first_step=order.step,
        steps=order.secagg.steps,
        step=order.step,
        history=order.digest(),
        cohort=order.secagg.cohort,
        threshold=order.secagg.threshold,
        min_cohort=order.secagg.min_cohort,
        collusion_bound=collusion_bound,
        ring_bits=order.secagg.ring_bits,
        scale=order.secagg.scale,
        value_bound=order.secagg.value_bound,
        length=order.vector_length,
        order_digest=order.digest(),
    )
