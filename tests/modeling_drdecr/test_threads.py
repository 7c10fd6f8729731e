"""A thread for each piece of work: their order, how far the caller reads ahead, and what an error leaves."""

import threading
import time

import pytest

from drdecr.modeling_drdecr.encoding_drdecr import map_in_threads


def test_results_keep_the_order_of_the_items_whichever_is_done_first():
    def slow_at_first(item: int) -> int:
        time.sleep(0.05 / (1 + item))
        return item * item

    assert list(map_in_threads(slow_at_first, range(9), threads=3)) == [item * item for item in range(9)]


@pytest.mark.parametrize("threads", [1, 3])
def test_items_are_read_as_they_are_needed_by_the_caller(threads: int):
    read = []

    def items():
        for item in range(100):
            read.append(threading.current_thread())
            yield item

    results = map_in_threads(lambda item: item, items(), threads)
    assert [next(results), next(results)] == [0, 1]
    assert len(read) <= 2 + 2 * threads + 1
    results.close()
    assert set(read) == {threading.current_thread()}


def test_as_many_run_at_once_as_there_are_threads():
    meeting = threading.Barrier(3, timeout=10)  # nobody passes alone
    assert len({*map_in_threads(lambda _: meeting.wait(), range(3), threads=3)}) == 3


def test_after_an_error_what_has_not_begun_is_left():
    begun = []

    def fail(item: int) -> None:
        begun.append(item)
        raise ZeroDivisionError(item)

    with pytest.raises(ZeroDivisionError, match=r"^0$"):
        list(map_in_threads(fail, range(100), threads=2))
    assert len(begun) < 10
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("drdecr")]
