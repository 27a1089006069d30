"""Many deadlines on one thread: each has a name, and setting it again replaces it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable


class Deadlines:
    """Calls ``passed(name)`` on its own thread when a deadline passes.

    Args:
        passed: must not block for long; may set and cancel deadlines.
        clock: monotonic seconds.
    """

    def __init__(self, passed: Callable[[Hashable], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._passed = passed
        self._clock = clock
        self._changed = threading.Condition()
        self._at: dict[Hashable, float] = {}
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="deadlines", daemon=True)
        self._thread.start()

    def set(self, name: Hashable, seconds: float) -> None:
        """Let ``name`` pass in ``seconds``, instead of when it would have."""
        with self._changed:
            earliest = min(self._at.values(), default=float("inf"))
            self._at[name] = self._clock() + seconds
            if self._at[name] < earliest:
                self._changed.notify()

    def cancel(self, name: Hashable) -> None:
        """Forget ``name``, if it is set."""
        with self._changed:
            self._at.pop(name, None)

    def close(self) -> None:
        """Forget everything and end the thread."""
        with self._changed:
            self._is_closed = True
            self._at.clear()
            self._changed.notify()

    def _run(self) -> None:
        while (name := self._next()) is not None:
            self._passed(name[0])

    def _next(self) -> tuple[Hashable] | None:
        with self._changed:
            while not self._is_closed:
                if not self._at:
                    self._changed.wait()
                    continue
                name = min(self._at, key=self._at.__getitem__)
                left_s = self._at[name] - self._clock()
                if left_s <= 0:
                    del self._at[name]
                    return (name,)
                self._changed.wait(left_s)
            return None
