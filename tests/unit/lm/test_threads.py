from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from ragself.lm.vllm.threads import Threads


def test_results_come_in_the_order_of_the_items() -> None:
    threads = Threads(4, "test")
    assert threads.map(lambda number: (time.sleep(0.02 * (number % 3)), number)[1], range(20)) == list(range(20))
    assert threads.map(str, []) == []
    threads.close(lambda: None)


def test_items_are_worked_on_side_by_side() -> None:
    threads, meeting = Threads(3, "test"), threading.Barrier(3)
    assert sorted(threads.map(lambda _: meeting.wait(5), range(3))) == [0, 1, 2]
    threads.close(lambda: None)


def test_an_error_is_raised_where_it_was_asked_for() -> None:
    threads = Threads(2, "test")
    with pytest.raises(ZeroDivisionError):
        threads.map(lambda number: 1 // number, [1, 0, 1])
    assert threads.map(abs, [-1]) == [1]  # they go on
    threads.close(lambda: None)


def test_whoever_is_last_to_end_tells_and_what_was_waiting_is_not_begun() -> None:
    threads, told = Threads(2, "test"), threading.Event()
    begun, going_on = threading.Barrier(3), threading.Event()
    done: list[int] = []

    def work(number: int) -> None:
        begun.wait(5)
        going_on.wait(5)
        done.append(number)

    for number in range(6):
        threads.give(lambda number=number: work(number))  # type: ignore[misc]
    begun.wait(5)
    threads.close(told.set)
    assert not told.wait(0.1)
    going_on.set()
    assert told.wait(5)
    assert sorted(done) == [0, 1]


def test_a_program_that_ends_waits_for_none() -> None:
    code = """
import threading, time
from ragself.lm.vllm.threads import Threads
begun = threading.Event()
Threads(1, "test").give(lambda: (begun.set(), time.sleep(60)))
begun.wait()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
