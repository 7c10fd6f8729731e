"""A closed-loop load: so many askers at the same time, each of which asks again when it is answered."""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx


@dataclass
class Load:
    """What askers saw.

    Args:
        seconds: of every request that was answered.
        refused: requests answered with 503; the asker waits as long as `Retry-After` says and asks again.
        wall: seconds from the first request to the last answer.
        batches: how many requests the server answered together, and how often.
    """

    seconds: list[float] = field(default_factory=list)
    refused: int = 0
    wall: float = 0.0
    batches: Counter[int] = field(default_factory=Counter)

    def add(self, other: "Load") -> None:
        """Take in another round."""
        self.seconds += other.seconds
        self.refused += other.refused
        self.wall += other.wall
        self.batches += other.batches

    @property
    def rate(self) -> float:
        """Requests answered a second."""
        return len(self.seconds) / self.wall

    @property
    def mean_batch(self) -> float:
        """Requests a batch."""
        return sum(size * count for size, count in self.batches.items()) / max(self.batches.total(), 1)

    def percentile(self, percent: int) -> float:
        """Return how long so many of a hundred requests took at most."""
        return statistics.quantiles(self.seconds, n=100, method="inclusive")[percent - 1]


async def _batches(client: httpx.AsyncClient) -> Counter[int]:
    sizes = (await client.get("/health")).json()["batches"]
    return Counter({int(size): count for size, count in sizes.items()})


async def ask(address: str, questions: Sequence[str], concurrency: int, requests: int) -> Load:
    """Ask a server for ten documents a question.

    Args:
        address: of the server.
        questions: asked in turn, one a request.
        concurrency: askers at the same time.
        requests: in all.
    """
    load, numbers = Load(), iter(range(requests))
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    async with httpx.AsyncClient(base_url=address, timeout=300, limits=limits) as client:
        before = await _batches(client)

        async def asker() -> None:
            for number in numbers:
                body = {"questions": [questions[number % len(questions)]], "top_k": 10}
                started = time.perf_counter()
                answer = await client.post("/search", json=body)
                while answer.status_code == 503:
                    load.refused += 1
                    await asyncio.sleep(float(answer.headers["Retry-After"]))
                    answer = await client.post("/search", json=body)
                answer.raise_for_status()
                load.seconds.append(time.perf_counter() - started)

        started = time.perf_counter()
        await asyncio.gather(*(asker() for _ in range(concurrency)))
        load.wall = time.perf_counter() - started
        load.batches = await _batches(client) - before
    return load
