"""Two jobs timed in turn, so that a machine that is busy or cools down slows both: read the ratio."""

import statistics
import time
from collections.abc import Callable


def in_turn(one: Callable[[], object], other: Callable[[], object], pairs: int) -> tuple[float, float, float]:
    """Median seconds of each, and the median of the ratios one / other of `pairs` runs.

    A first run of each is not timed, and who goes first changes from pair to pair.
    """
    times = []
    for i in range(pairs + 1):
        pair = [0.0, 0.0]
        for k in (0, 1) if i % 2 else (1, 0):
            began = time.perf_counter()
            (one, other)[k]()
            pair[k] = time.perf_counter() - began
        times.append(pair)
    a, b = zip(*times[1:], strict=True)
    return statistics.median(a), statistics.median(b), statistics.median(x / y for x, y in times[1:])
