"""Ctrl-C and SIGTERM as a wish that the training loop grants between two steps."""

import signal
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType


class Interrupted(Exception):
    """Ctrl-C or a termination signal: the run is saved and can be resumed."""


class Stop:
    """While it is entered the first signal sets `asked`, and a second one stops at once.

    say: gets a line for people at the first signal.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say, self.asked = say, False
        self.before: dict[int, object] = {}

    def __enter__(self) -> "Stop":
        self.before = {n: signal.signal(n, self.first) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def first(self, number: int, frame: object) -> None:
        """The handler."""
        self.asked = True
        signal.signal(number, signal.default_int_handler)
        with suppress(OSError, RuntimeError, SystemExit):  # a pipe may have gone with the same Ctrl-C
            self.say("stopping and saving after this step; once more stops at once")
