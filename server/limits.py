"""How often a site may ask something: a token bucket for each site."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at_s: float


class RateLimit:
    """A token bucket for each name: ``rate_per_s`` in the long run, ``burst`` at once. Thread-safe.

    Args:
        rate_per_s: tokens that come back in a second.
        burst: tokens a bucket holds.
        clock: monotonic seconds.
    """

    def __init__(self, rate_per_s: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[str, _Bucket] = {}

    def allows(self, name: str) -> bool:
        """Take a token of ``name``'s bucket; return False if there is none."""
        with self._lock:
            now_s = self._clock()
            bucket = self._buckets.setdefault(name, _Bucket(self._burst, now_s))
            bucket.tokens = min(self._burst, bucket.tokens + (now_s - bucket.at_s) * self._rate_per_s)
            bucket.at_s = now_s
            if bucket.tokens < 1:
                return False
            bucket.tokens -= 1
            return True
