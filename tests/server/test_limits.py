"""A token bucket for each site."""

from __future__ import annotations

from server.limits import RateLimit


class Clock:
    now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


def test_a_burst_then_the_rate_and_each_site_has_its_own() -> None:
    clock = Clock()
    limit = RateLimit(2.0, 3.0, clock)
    assert [limit.allows("alpha") for _ in range(4)] == [True, True, True, False]
    assert limit.allows("beta")
    clock.now_s += 0.5
    assert [limit.allows("alpha") for _ in range(2)] == [True, False]
    clock.now_s += 3600
    assert [limit.allows("alpha") for _ in range(4)] == [True, True, True, False]
