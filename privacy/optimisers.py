"""Optimisers and learning-rate schedules. They see noised gradients and public numbers only: post-processing.

Everything is a function of the order and of the gradients given so far, in float64 with operations that IEEE 754 rounds
alike everywhere, so that in mode ``joint`` all sites and the coordinator take the same steps. State starts afresh with
each round.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from privacy.options import AdamSpec, TrainingOptions
from privacy.order import Order
from tacit.errors import TrainingError

Float64 = npt.NDArray[np.float64]


class Optimiser(Protocol):
    """Takes steps along noised gradients."""

    @property
    def vector(self) -> npt.NDArray[np.float32]:
        """The weights, float32 [d]."""
        ...

    @property
    def moved(self) -> Float64:
        """The weights less those it started from, float64 [d]."""
        ...

    def step(self, gradient: Float64, *, learning_rate: float, noise_variance: float) -> None:
        """Take one step along ``gradient``, float64 [d].

        Args:
            noise_variance: of each coordinate of ``gradient``, from public numbers.
        """
        ...


def optimiser_of(training: TrainingOptions, vector: npt.NDArray[np.float32]) -> Optimiser:
    """Return the order's optimiser at the start of a round, with the weights ``vector``, float32 [d]."""
    if training.adam is not None:
        return NoiseCorrectedAdam(vector, training.adam)
    return HeavyBall(vector, momentum=training.momentum)


class _Weights:
    def __init__(self, vector: npt.NDArray[np.float32]) -> None:
        self._start = vector.astype(np.float64)
        self._weights = self._start.copy()

    @property
    def vector(self) -> npt.NDArray[np.float32]:
        """The weights, float32 [d]."""
        return self._weights.astype(np.float32)

    @property
    def moved(self) -> Float64:
        """The weights less those it started from, float64 [d]."""
        return self._weights - self._start


class HeavyBall(_Weights):
    """SGD with momentum: ``v <- momentum v + g; w <- w - learning_rate v``, with ``v`` zero at first (Polyak 1964).

    Args:
        vector: the weights to start from, float32 [d].
    """

    def __init__(self, vector: npt.NDArray[np.float32], *, momentum: float) -> None:
        super().__init__(vector)
        self._velocity = np.zeros_like(self._weights)
        self._momentum = momentum

    def step(self, gradient: Float64, *, learning_rate: float, noise_variance: float) -> None:
        """Take one step along ``gradient``, float64 [d]; the noise's variance has no say."""
        del noise_variance
        self._velocity = self._momentum * self._velocity + gradient
        self._weights -= learning_rate * self._velocity


class NoiseCorrectedAdam(_Weights):
    """AdamW whose second moment is that of the clipped gradient alone: DP-AdamBC.

    ``m`` and ``v`` are the usual moving averages of g and g^2 (Kingma and Ba 2015), bias-corrected for their zero
    start. The noise adds its variance to every coordinate of E[g^2]; without its removal Adam divides all coordinates
    by nearly the same number, the noise's, and is SGD with another learning rate. So

        w <- w - learning_rate (weight_decay w + m / sqrt(max(v - noise, floor)))

    where ``noise`` is the same moving average of the noise's variances (Tang, Shpilevskiy and Lécuyer 2024,
    algorithm 1, where it is constant) and ``floor = variance_floor * noise``.

    Args:
        vector: the weights to start from, float32 [d].
        spec: the order's parameters.
    """

    def __init__(self, vector: npt.NDArray[np.float32], spec: AdamSpec) -> None:
        super().__init__(vector)
        self._spec = spec
        self._first = np.zeros_like(self._weights)
        self._second = np.zeros_like(self._weights)
        self._noise = 0.0
        # beta^t by products: a power may be rounded differently on another machine
        self._decay1 = self._decay2 = 1.0

    @property
    def second_moment(self) -> Float64:
        """E[g^2] of the gradient without its noise: unbiased, so it may be negative. float64 [d]; after a step."""
        return (self._second - self._noise) / (1.0 - self._decay2)

    def step(self, gradient: Float64, *, learning_rate: float, noise_variance: float) -> None:
        """Take one step along ``gradient``, float64 [d].

        Raises:
            TrainingError: there is no noise: this optimiser would divide by zero.
        """
        if not noise_variance > 0:
            raise TrainingError(f"the noise's variance is {noise_variance}, expected a number above 0")
        beta1, beta2 = self._spec.beta1, self._spec.beta2
        self._first = beta1 * self._first + (1.0 - beta1) * gradient
        self._second = beta2 * self._second + (1.0 - beta2) * (gradient * gradient)
        self._noise = beta2 * self._noise + (1.0 - beta2) * noise_variance
        self._decay1 *= beta1
        self._decay2 *= beta2
        floor = self._spec.variance_floor * self._noise / (1.0 - self._decay2)
        direction = self._first / (1.0 - self._decay1) / np.sqrt(np.maximum(self.second_moment, floor))
        self._weights -= learning_rate * (self._spec.weight_decay * self._weights + direction)


@dataclass(frozen=True)
class LearningRates:
    """The learning rate of every step of a run, whose number of steps is known beforehand.

    It rises over ``warmup_steps`` steps, the last of which has the full rate; after that it stays, or falls towards
    zero, which it would reach one step after the last: no step that costs privacy is taken at rate zero.
    """

    full: float
    schedule: Literal["constant", "linear", "cosine"]
    warmup_steps: int
    #: of the whole run
    steps: int

    @classmethod
    def of(cls, order: Order) -> LearningRates:
        """The rates of the run an order belongs to."""
        training = order.training
        return cls(
            full=training.learning_rate,
            schedule=training.schedule,
            warmup_steps=training.warmup_steps,
            steps=order.rounds_planned * training.local_steps,
        )

    def at(self, step: int) -> float:
        """Learning rate of a step, counted from 0 over the whole run.

        Raises:
            TrainingError: the run has no such step.
        """
        if not 0 <= step < self.steps:
            raise TrainingError(f"step {step} was asked for, expected one of the run's {self.steps}, from 0")
        if step < self.warmup_steps:
            return self.full * ((step + 1) / self.warmup_steps)
        done = (step - self.warmup_steps) / (self.steps - self.warmup_steps)
        if self.schedule == "linear":
            return self.full * (1.0 - done)
        if self.schedule == "cosine":
            # In float32, so that two machines whose cosine differs in the last bit of a double take the same step.
            return self.full * float(np.float32(0.5 * (1.0 + math.cos(math.pi * done))))
        return self.full


def first_step_of(order: Order) -> int:
    """Number of the first step of an order's round, counted from 0 over the run: a repeated round repeats its rates."""
    return (order.round - 1) * order.training.local_steps
