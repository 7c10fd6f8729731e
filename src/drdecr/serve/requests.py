"""Requests to the server and how they are answered: those of one kind in one batch, an error to its own sender alone."""

import json
import logging
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from drdecr.retrieval.retriever import Retriever

logger = logging.getLogger(__name__)


MAX_TEXTS, MAX_CHARACTERS, MAX_TOP_K = 64, 20_000, 1000


def replace_surrogates(value: Any) -> Any:
    """Replace half surrogate pairs of a text, which JSON can hold and no tokenizer reads; other values stay."""
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(replace_surrogates), Field(max_length=MAX_CHARACTERS)]
Texts = Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS)]
Value = str | int | float | bool


class StrictRequest(BaseModel):
    """A request in which a misspelt name is an error."""

    model_config = ConfigDict(extra="forbid")


class SearchRequest(StrictRequest):
    """Questions to search with."""

    questions: Texts
    top_k: int = Field(10, ge=1, le=MAX_TOP_K, description="Documents a question.")
    where: dict[str, Value | list[Value]] | None = Field(None, description="Metadata that documents must have.")


class EncodeRequest(StrictRequest):
    """Texts to encode."""

    texts: Texts
    kind: str = Field("query", pattern="^(query|document)$")


class RerankRequest(StrictRequest):
    """A question and passages to order."""

    question: Text
    passages: Texts


class RequestAnswerer:
    """Answers requests that came together.

    Args:
        retriever: answers questions and encodes texts.
    """

    def __init__(self, retriever: Retriever) -> None:
        self.retriever, self.num_passages = retriever, retriever.num_passages

    def answer(self, requests: list[StrictRequest]) -> list[Any]:
        """Return an answer, or the exception that it ended with, for each request; all from the index's last commit."""
        self._refresh()
        answers: list[Any] = [None] * len(requests)
        places_by_group: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            places_by_group.setdefault(_group_key(request), []).append(place)
        for places in places_by_group.values():
            for place, answer in zip(places, self._answer_group([requests[place] for place in places]), strict=True):
                answers[place] = answer
        return answers

    def _refresh(self) -> None:
        try:
            if self.retriever.refresh():
                self.num_passages = self.retriever.num_passages
        except (OSError, ValueError) as error:  # the open index can still be searched
            logger.warning("%s Until then the commit before is searched.", error)

    def _answer_group(self, requests: list[Any]) -> list[Any]:
        """Answer together; if that fails, each by itself, so that one request cannot spoil another's."""
        try:
            if isinstance(requests[0], SearchRequest):
                return self._search(requests)
            return [self._encode(one) if isinstance(one, EncodeRequest) else self._rerank(one) for one in requests]
        except Exception as error:  # noqa: BLE001  # the sender gets it
            if len(requests) == 1:
                return [error]
            return [answer for request in requests for answer in self._answer_group([request])]

    def _search(self, requests: list[SearchRequest]) -> list[Any]:
        questions = [question for request in requests for question in request.questions]
        results = self.retriever.answer(questions, requests[0].top_k, requests[0].where)
        if len(results) != len(questions):
            raise RuntimeError(
                f"{type(self.retriever).__name__}: expected {len(questions)} answers, got {len(results)}."
            )
        remaining = iter(results)
        return [[next(remaining) for _ in request.questions] for request in requests]

    def _encode(self, request: EncodeRequest) -> list[list[list[float]]]:
        encode = self.retriever.encode_queries if request.kind == "query" else self.retriever.encode_documents
        return [tokens.tolist() for tokens in encode(request.texts)]

    def _rerank(self, request: RerankRequest) -> list[float]:
        return self.retriever.scores(request.question, request.passages)


def _group_key(request: StrictRequest) -> str:
    """Return what requests that are answered together have in common."""
    if isinstance(request, SearchRequest):
        return json.dumps([request.top_k, request.where], sort_keys=True)
    return type(request).__name__
