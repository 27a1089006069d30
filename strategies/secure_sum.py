"""Where a strategy gets its sums from. The gateway is one implementation, the in-process coordinator another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from privacy.order import Order
from privacy.secagg.ring import RingVector


@dataclass(frozen=True)
class SumResult:
    """What one secure step gave.

    Attributes:
        total: ring elements, shape ``(vector_length,)``: the encoded updates of ``survivors``, added.
        survivors: the sites whose updates are in ``total``; at least ``min_cohort`` of them, sorted.
    """

    total: RingVector
    survivors: tuple[str, ...]


class SecureSums(Protocol):
    """Opens secure steps and waits for their sums."""

    def open_step(self, order: Order) -> None:
        """Let the order's cohort join the step.

        Raises:
            TransportError: the gateway is not there.
        """
        ...

    def await_step(self, order: Order, step: int | None = None) -> SumResult:
        """Block until a step of the order, by default its first, has ended.

        Raises:
            StepBurnt: the step ended without a sum; the message says why and names the sites.
        """
        ...

    def node_ids(self) -> Mapping[str, int]:
        """Return Flower's node id of every site that is connected now."""
        ...
