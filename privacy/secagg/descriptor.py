"""What a secure step is: every parameter that decides what the masks hide and what the sum means.

``ctx``, the hash of a descriptor, enters every mask seed: sites that were shown different models, cohorts or
parameters derive masks that do not cancel (design, section 5, R0). A site builds the descriptor from its own
order and compares the coordinator's announcement with it byte for byte; it never acts on a parsed one.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import asdict, dataclass, fields
from functools import lru_cache

from privacy.order import Order
from tacit.canonical import canonical_json, parse_json
from tacit.errors import DescriptorMismatch, EncodingRange, InputError, MalformedMessage

_LABEL = b"tacit/secagg/descriptor/v1\0"
_RUN_ID = re.compile(r"[0-9a-f]{16}\Z")
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
    step: int
    """Counts attempts over the whole run; a site never takes one twice."""
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
        if not re.match(r"sha256:[0-9a-f]{64}\Z", self.order_digest):
            raise MalformedMessage(f"order digest {self.order_digest!r} is not sha256:<64 hex digits>")
        if list(self.cohort) != sorted(set(self.cohort)) or not all(map(_NAME.match, self.cohort)):
            raise MalformedMessage(f"cohort {list(self.cohort)} is not a sorted list of site names without repeats")
        for name in ("epoch", "round", "step", "threshold", "min_cohort", "collusion_bound"):
            if not 0 <= getattr(self, name) < 2**32:
                raise MalformedMessage(f"{name} is {getattr(self, name)}; expected 0 to 2^32 - 1")
        if self.ring_bits != 32:
            raise EncodingRange(f"a ring of {self.ring_bits} bits was asked for; this version has 32")
        if not 0 < self.length < 2**32:
            raise EncodingRange(f"a vector of {self.length} coordinates was asked for; expected 1 to 2^32 - 1")
        for name in ("scale", "value_bound"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise EncodingRange(f"{name} is {getattr(self, name)}; expected a finite number above zero")

    def encode(self) -> bytes:
        """Return the RFC 8785 canonical JSON of all fields: the bytes that are announced and compared."""
        return _encoded(self)

    def ctx(self) -> bytes:
        """Return the 32-byte SHA-256 of :meth:`encode` under its own label."""
        return hashlib.sha256(_LABEL + self.encode()).digest()

    def check_announced(self, announced: bytes) -> None:
        """Compare a coordinator's announcement with this, the site's own, descriptor.

        Raises:
            DescriptorMismatch: the bytes differ; the message names the fields that do.
        """
        if announced != self.encode():
            raise DescriptorMismatch(
                "the coordinator announced another step than this site was ordered to take: "
                + self._difference(announced),
                hint="the coordinator must announce the descriptor of the order it sent; ask its operator",
            )

    def _difference(self, announced: bytes) -> str:
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
            if other.get(name) != mine[name]
        ]
        return "; ".join(parts) or "the bytes are not canonical"


@lru_cache(maxsize=64)
def _encoded(descriptor: StepDescriptor) -> bytes:
    """A step encodes its descriptor once for each key it checks; this way it is worked out once."""
    return canonical_json(asdict(descriptor))


def descriptor_for(order: Order, collusion_bound: int) -> StepDescriptor:
    """Return the descriptor of ``order``'s one secure step; ``collusion_bound`` comes from the agreement."""
    return StepDescriptor(
        run_id=order.run_id,
        epoch=order.epoch,
        round=order.round,
        step=order.step,
        cohort=order.secagg.cohort,
        threshold=order.secagg.threshold,
        min_cohort=order.secagg.min_cohort,
        collusion_bound=collusion_bound,
        ring_bits=order.secagg.ring_bits,
        scale=order.secagg.scale,
        value_bound=order.secagg.value_bound,
        length=order.adapter_length,
        order_digest=order.digest(),
    )
