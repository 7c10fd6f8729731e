"""What a server is asked, and the answers: requests of one kind in one batch, an error to its own sender alone."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from drdecr.retrieval.retriever import Retriever

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Search:
    """Questions to search with."""

    questions: list[str]
    top_k: int
    where: dict[str, Any] | None


@dataclass(frozen=True)
class Encode:
    """Texts to encode, as `query` or `document`."""

    texts: list[str]
    kind: str


@dataclass(frozen=True)
class Rerank:
    """Passages to order for a question."""

    question: str
    passages: list[str]


class Answering:
    """Answers requests that came together.

    Args:
        system: of one step, or of two.

    """

    def __init__(self, system: Retriever) -> None:
        self.system, self.num_passages = system, system.num_passages

    def answer(self, requests: list[Any]) -> list[Any]:
        """Return an answer, or the exception that it ended with, for each request; all from the index's last commit."""
        self._refresh()
        answers: list[Any] = [None] * len(requests)
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(self._group(request), []).append(number)
        for numbers in groups.values():
            together = [requests[number] for number in numbers]
            function = self._search if isinstance(together[0], Search) else self._one_by_one
            for number, own in zip(numbers, _tried(function, together), strict=True):
                answers[number] = own
        return answers

    def _refresh(self) -> None:
        try:
            is_newer = self.system.refresh()
        except (OSError, ValueError) as error:  # what is open can still be searched
            logger.warning("%s Until then the commit before is searched.", error)
            is_newer = True  # of some of its shards, perhaps
        if is_newer:
            self.num_passages = self.system.num_passages

    def _group(self, request: Any) -> str:
        if isinstance(request, Search):
            return json.dumps([request.top_k, request.where], sort_keys=True)
        return type(request).__name__

    def _search(self, requests: list[Search]) -> list[Any]:
        questions = [question for request in requests for question in request.questions]
        found = self.system.answer(questions, requests[0].top_k, requests[0].where)
        if len(found) != len(questions):
            raise RuntimeError(f"{type(self.system).__name__}: expected {len(questions)} answers, got {len(found)}.")
        answered = iter(found)
        return [[next(answered) for _ in request.questions] for request in requests]

    def _one_by_one(self, requests: list[Any]) -> list[Any]:
        return [self._encode(one) if isinstance(one, Encode) else self._rerank(one) for one in requests]

    def _encode(self, request: Encode) -> list[list[list[float]]]:
        encode = self.system.encode_queries if request.kind == "query" else self.system.encode_documents
        return [tokens.tolist() for tokens in encode(request.texts)]

    def _rerank(self, request: Rerank) -> list[float]:
        return self.system.scores(request.question, request.passages)


def _tried(function: Callable[[list[Any]], list[Any]], requests: list[Any]) -> list[Any]:
    """Answer together; if that fails, each by itself, so that one request cannot spoil another's."""
    try:
        return function(requests)
    except Exception as error:  # noqa: BLE001  # told to whoever asked
        if len(requests) == 1:
            return [error]
        return [answer for request in requests for answer in _tried(function, [request])]
