"""How much memory a step costs the gateway: ``python -m simulations.benchmarks.gateway_memory``.

The gateway is a process of its own and all sites another one, joined by gRPC with mutual TLS. A small step with every
site comes first, so that what is measured is the vectors and not the libraries.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from simulations.benchmarks.figures import Figure, below, on_one_thread, publish, say
from simulations.benchmarks.loopback import loopback

_MIB = 2**20
_WARM_UP_LENGTH = 1000


def measure(sites: int, length: int) -> list[Figure]:
    """Return the gateway's memory before and at the height of one step of ``sites`` sites."""
    with loopback(sites) as running:
        running.session(_WARM_UP_LENGTH, 1)
        idle = running.gateway_memory()
        say(f"idle {idle.rss_bytes / _MIB:.0f} MiB; now a step of {sites} sites over {length:,} coordinates")
        times = running.session(length, 1)[0]
        if times.survivors != sites:
            raise RuntimeError(f"{times.survivors} of {sites} sites are in the sum")
        peak = running.gateway_memory()
    above = f"gateway memory above idle, d={length} n={sites}"
    above_mib = (peak.peak_bytes - idle.rss_bytes) / _MIB
    promised = (sites, length) == (32, 10**7)
    return [
        Figure("gateway memory, idle", idle.rss_bytes / _MIB, "MiB"),
        Figure(f"gateway memory, peak, d={length} n={sites}", peak.peak_bytes / _MIB, "MiB"),
        below(above, above_mib, "MiB", 400) if promised else Figure(above, above_mib, "MiB"),
        Figure(f"wall time of that step, d={length} n={sites}", times.latency_s, "s"),
    ]


def main(arguments: list[str] | None = None) -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description="Measure the gateway's memory during one secure step.")
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--quick", action="store_true", help="4 sites and 10^5 coordinates: to see that it runs")
    parser.add_argument("--fresh", action="store_true", help="changes nothing: nothing is kept between runs")
    chosen = parser.parse_args(arguments)
    sites, length, name = (4, 10**5, "gateway-memory-quick") if chosen.quick else (32, 10**7, "gateway-memory")
    publish(name, measure(sites, length), chosen.out)


if __name__ == "__main__":
    on_one_thread("simulations.benchmarks.gateway_memory")
    main()
