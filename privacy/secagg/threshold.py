"""How many sites must agree before a sum is opened: the rules a site enforces, whatever a coordinator says.

With ``n`` sites in the cohort, a threshold of ``t`` and at most ``c`` colluding sites (design, section 5):

- ``2t - n > c``: any two quorums of ``t`` share an honest site, and an honest site locks once a step;
- ``t - c >= 2``: at least two honest sites are in every sum, so a sum is never one honest site's vector.
"""

from __future__ import annotations

from tacit.errors import CohortTooSmall, SecAggError

#: Larger cohorts would need frames above 1 MiB: a site's shares for all peers take about 33 * n^2 bytes.
MAX_COHORT = 128


def default_threshold(cohort_size: int) -> int:
    """Return ``floor(2n/3) + 1``."""
    return 2 * cohort_size // 3 + 1


def default_collusion_bound(cohort_size: int) -> int:
    """Return ``max(1, floor((n-1)/3))``."""
    return max(1, (cohort_size - 1) // 3)


def check_threshold(cohort_size: int, threshold: int, collusion_bound: int) -> None:
    """Accept ``(n, t, c)`` only if ``1 <= c``, ``t <= n``, ``2t - n > c`` and ``t - c >= 2``.

    Raises:
        CohortTooSmall: the threshold does not protect against ``collusion_bound`` colluding sites, or asks
            for more sites than the cohort has.
        SecAggError: the cohort is larger than :data:`MAX_COHORT`.
    """
    n, t, c = cohort_size, threshold, collusion_bound
    if n > MAX_COHORT:
        raise SecAggError(
            f"a cohort of {n} sites was asked for; at most {MAX_COHORT} fit this protocol's frames",
            hint="sample a smaller cohort for each round",
        )
    if c < 1:
        raise CohortTooSmall(
            f"collusion bound {c} was given; at least 1 (one curious partner) is required",
            hint="set collusion_bound to 1 or more in the agreement",
        )
    if t > n:
        raise CohortTooSmall(
            f"threshold {t} was given for a cohort of {n} sites; it cannot be reached",
            hint=f"use threshold {default_threshold(n)}",
        )
    if t - c < 2:
        raise CohortTooSmall(
            f"threshold {t} with collusion bound {c} leaves {t - c} honest sites in a sum; at least 2 are "
            f"required (t - c >= 2)",
            hint="bring more sites into the cohort, or raise the threshold",
        )
    if 2 * t - n <= c:
        raise CohortTooSmall(
            f"threshold {t} of {n} sites lets two quorums meet in only {max(0, 2 * t - n)} sites; more than "
            f"the collusion bound {c} are required (2t - n > c)",
            hint=f"raise the threshold, for example to {default_threshold(n)}",
        )


def survivors_required(threshold: int, min_cohort: int) -> int:
    """Return the smallest number of survivors a site helps to open: ``max(t, min_cohort)``."""
    return max(threshold, min_cohort)
