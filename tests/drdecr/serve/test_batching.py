"""Requests that come at the same time are answered together, each by its own answer."""

import asyncio
import threading
import time

import pytest

from drdecr.serve.batching import Batcher, BusyError


def test_requests_that_come_together_are_answered_together():
    batches = []

    def double(items):
        batches.append(len(items))
        time.sleep(0.01)
        return [ValueError("seven") if item == 7 else 2 * item for item in items]

    async def ask():
        async with Batcher(double, max_batch=8, wait=0.02) as batcher:
            return await asyncio.gather(*(batcher.submit(item) for item in range(20)), return_exceptions=True)

    answers = asyncio.run(ask())
    assert [str(answer) for answer in answers] == [str(2 * item) if item != 7 else "seven" for item in range(20)]
    assert max(batches) == 8
    assert sum(batches) == 20


def test_too_many_are_refused_and_what_was_accepted_is_answered_at_the_end():
    allowed = threading.Event()

    def wait(items):
        allowed.wait(5)
        return items

    async def ask():
        async with Batcher(wait, max_batch=1, max_waiting=2, wait=0) as batcher:
            asked = [asyncio.create_task(batcher.submit(0))]
            await asyncio.sleep(0.05)
            asked += [asyncio.create_task(batcher.submit(number)) for number in (1, 2)]
            await asyncio.sleep(0)
            with pytest.raises(BusyError, match="2 requests wait already"):
                await batcher.submit(3)
            allowed.set()
        return [await task for task in asked]  # the batcher has ended

    assert asyncio.run(ask()) == [0, 1, 2]


def test_what_nobody_waits_for_any_more_is_not_answered():
    allowed, seen = threading.Event(), []

    def wait(items):
        seen.extend(items)
        allowed.wait(5)
        return items

    async def ask():
        async with Batcher(wait, max_batch=1, wait=0) as batcher:
            asked = [asyncio.create_task(batcher.submit(number)) for number in range(4)]
            await asyncio.sleep(0.05)
            for number in (1, 3):  # as a server does whose time to end has run out
                asked[number].cancel()
            await asyncio.sleep(0)
            allowed.set()
        assert batcher.sizes == {1: 2}
        return [await asked[number] for number in (0, 2)]

    assert asyncio.run(ask()) == [0, 2]
    assert seen == [0, 2]


def test_a_function_that_fails_is_told_to_all_and_the_next_batch_goes_on():
    calls = []

    def fail_once(items):
        calls.append(items)
        if len(calls) == 1:
            raise OSError("disk")
        return items

    async def ask():
        async with Batcher(fail_once, wait=0) as batcher:
            with pytest.raises(OSError, match="disk"):
                await batcher.submit(1)
            return await batcher.submit(2)

    assert asyncio.run(ask()) == 2
