"""One site, one agent: which connection speaks for each site.

Two agents with one identity (a copied folder) would take each other's orders, and each would keep its own account
of what is spent. An agent holds one connection; as long as it is in use, no other may speak for that site.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tacit.errors import TransportError

#: A SuperNode that was told "nothing" asks again after 3 s; between two of its calls it is still there.
_LAPSE_S = 6.0


@dataclass
class _Holder:
    connection: str
    open_calls: int = 0
    last_s: float = 0.0


class Presence:
    """Lets one connection a site in. Thread-safe.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._holders: dict[str, _Holder] = {}

    def enter(self, site: str, connection: str) -> None:
        """Begin a call of ``site`` that came in on ``connection`` (a peer's address and port).

        Raises:
            TransportError: another connection speaks for this site.
        """
        with self._lock:
            holder = self._holders.get(site)
            if holder is None or holder.connection != connection:
                if holder is not None and (holder.open_calls > 0 or self._clock() < holder.last_s + _LAPSE_S):
                    raise TransportError(
                        f"another agent with the identity of {site} is connected, from {holder.connection}",
                        hint="a site has one agent: stop the other one, or issue certificates for a site of its own",
                    )
                holder = self._holders[site] = _Holder(connection)
            holder.open_calls += 1

    def leave(self, site: str, connection: str, *, broken: bool) -> bool:
        """End a call. A ``broken`` last call frees the place at once: the agent died, or let go.

        Returns:
            whether the place was freed: nobody speaks for the site now.
        """
        with self._lock:
            holder = self._holders.get(site)
            if holder is None or holder.connection != connection:
                return False
            holder.open_calls -= 1
            holder.last_s = self._clock()
            if broken and holder.open_calls == 0:
                del self._holders[site]
                return True
            return False
