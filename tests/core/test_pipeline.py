"""If these break, results are lost or mixed up, or memory fills with images that wait."""

import threading
import time

import pytest

from zoo.core.pipeline import Behind, ahead


def test_ahead_keeps_the_order_and_never_runs_far_ahead() -> None:
    begun = []

    def work(i: int) -> int:
        begun.append(i)
        time.sleep(0.01 * (i % 3))
        return i * i

    for i, (item, result) in enumerate(ahead(work, range(9), most=2)):
        assert (item, result.result()) == (i, i * i)
        assert len(begun) <= i + 3, "two are begun besides the one in use"
    assert len(begun) == 9


def test_ahead_raises_at_the_item_that_failed_and_goes_on() -> None:
    def work(i: int) -> int:
        if i == 1:
            raise KeyboardInterrupt
        return i

    results = ahead(work, range(3))
    assert next(results)[1].result() == 0
    with pytest.raises(KeyboardInterrupt):
        next(results)[1].result()
    assert next(results)[1].result() == 2


def test_behind_does_all_in_order_before_it_is_left() -> None:
    done = []
    with Behind(most=2) as behind:
        for i in range(5):
            behind.put(lambda i=i: (time.sleep(0.01), done.append(i)))  # type: ignore[misc]
    assert done == [0, 1, 2, 3, 4]


def test_behind_finishes_what_was_put_when_the_caller_is_interrupted() -> None:
    done = []

    def interrupted() -> None:
        with Behind() as behind:
            behind.put(lambda: (time.sleep(0.05), done.append(1)))  # type: ignore[arg-type,func-returns-value]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done == [1]


def test_behind_stops_at_the_first_fault_and_says_it() -> None:
    done, gate = [], threading.Event()

    def fails() -> None:
        gate.wait(5)
        raise ValueError("full")

    def run() -> None:
        with Behind(most=2) as behind:
            behind.put(fails)
            behind.put(lambda: done.append(1))
            gate.set()
            behind.put(lambda: done.append(2))

    with pytest.raises(ValueError, match="full"):
        run()
    assert done == []


def test_behind_waits_where_too_much_is_waiting() -> None:
    gate, put = threading.Event(), []

    def caller() -> None:
        with Behind(most=1) as behind:
            for i in range(3):
                behind.put(lambda: gate.wait(5) and None)
                put.append(i)

    thread = threading.Thread(target=caller)
    thread.start()
    time.sleep(0.1)
    assert put == [0]
    gate.set()
    thread.join(5)
    assert put == [0, 1, 2]
