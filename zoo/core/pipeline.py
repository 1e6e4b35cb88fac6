"""Files read ahead of the network and written behind it, by threads: OpenCV works outside Python's lock.

Both queues are short, so that memory does not grow with the number of files.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, TypeVar

import cv2
import numpy as np

from zoo.errors import InputError

MOST = 2  # files read before they are asked for, and results that wait to be written
# of one image; torch's lack of memory is a RuntimeError on a CPU
FAULTS = (InputError, MemoryError, RuntimeError, cv2.error)
T = TypeVar("T")
R = TypeVar("R")


@dataclass
class Answer(Generic[T]):
    """What became of an item: its uint8 image and its mask, or the reason why there is none."""

    item: T
    image: np.ndarray | None = None
    mask: np.ndarray | None = None
    fault: Exception | None = None

    @contextmanager
    def holding(self) -> Iterator[None]:
        """A fault of this item's own is kept, and does not stop the others."""
        try:
            yield
        except FAULTS as e:
            self.fault = e.with_traceback(None)  # whose frames would keep images and tensors


def ahead(work: Callable[[T], R], items: Iterable[T], most: int = MOST) -> Iterator[tuple[T, Future[R]]]:
    """Each item with its `work`, in order, begun while those before are still in use."""
    pool, begun = ThreadPoolExecutor(most), deque[tuple[T, Future[R]]]()
    try:
        for item in items:
            begun.append((item, pool.submit(work, item)))
            if len(begun) > most:
                yield begun.popleft()
        while begun:
            yield begun.popleft()
    finally:
        pool.shutdown(cancel_futures=True)


class Behind:
    """A thread that does one thing after another while the caller goes on; leaving waits for all of them.

    What fails is raised at a later `put` or on leaving, and nothing that was put after it is done.
    """

    def __init__(self, most: int = MOST) -> None:
        self.pool, self.most = ThreadPoolExecutor(1), most
        self.waiting = deque[Future[None]]()
        self.failed = False

    def put(self, work: Callable[[], None]) -> None:
        """Do `work` later; waits while `most` are waiting."""
        while len(self.waiting) >= self.most:
            self.waiting.popleft().result()
        self.waiting.append(self.pool.submit(self._do, work))

    def _do(self, work: Callable[[], None]) -> None:
        if self.failed:
            return
        try:
            work()
        except BaseException:
            self.failed = True
            raise

    def __enter__(self) -> "Behind":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pool.shutdown()
        if kind is None:
            for one in self.waiting:
                one.result()
