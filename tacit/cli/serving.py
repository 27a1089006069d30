"""What the long-lived commands share: start, say so, wait for a signal, stop cleanly."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

_log = logging.getLogger(__name__)

_STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_Handler = Callable[[int, FrameType | None], Any] | int | None


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to stop.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        #: as a shell reports a process that a signal ended
        self.exit_code = 128 + number


class StopSignal:
    """Set by SIGTERM, SIGINT or SIGHUP; a second signal is ignored while stopping goes on.

    Use as a context manager around everything that has to be stopped cleanly: the handlers that were there before
    come back at its end.
    """

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._before: dict[int, _Handler] = {}

    def __enter__(self) -> Self:
        self._before = _install(self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _restore(self._before)

    def asked(self) -> bool:
        """Return whether a stop was asked for."""
        return self._asked.is_set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Block until a stop is asked for, or ``timeout_s`` passed; return whether it was."""
        return self._asked.wait(timeout_s)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        _log.info("stopping on %s", signal.Signals(number).name)
        self._asked.set()


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn the first SIGINT, SIGTERM or SIGHUP into :class:`Interrupted`; ignore more of them while stopping goes on.

    For commands that wait in many places and own processes: whoever presses Ctrl-C twice must not cut short the
    clean stop that the first one began.

    Raises:
        Interrupted: a signal came.
    """
    asked = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if not asked:
            asked = True
            raise Interrupted(number)

    before = _install(stop)
    try:
        yield
    finally:
        _restore(before)


def _install(handler: Callable[[int, FrameType | None], None]) -> dict[int, _Handler]:
    # under nohup, SIGHUP is ignored, and stays so
    wanted = [number for number in _STOPPING if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in wanted}


def _restore(handlers: dict[int, _Handler]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
