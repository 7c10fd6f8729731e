"""Requests to the server and how they are answered: those of one kind in one batch, an error to its own sender alone."""

import json
import logging
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from drdecr.retrieval.retriever import Retriever

logger = logging.getLogger(__name__)


MAX_TEXTS, MAX_CHARACTERS, MAX_TOP_K = 64, 20_000, 1000
MAX_TOTAL_CHARACTERS = 200_000
"""Characters of all texts of a request."""
MAX_DOCUMENTS = 4_000
"""Documents of an answer: questions times `top_k`."""
MAX_FILTER_KEYS, MAX_FILTER_VALUES = 8, 256
"""Keys of a filter, and values of all its keys: each costs time in every passage."""


def replace_surrogates(value: Any) -> Any:
    """Replace half surrogate pairs of a text, which JSON can hold and no tokenizer reads; other values stay."""
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(replace_surrogates), Field(max_length=MAX_CHARACTERS)]
Texts = Annotated[
    list[Text],
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    Field(min_length=1, max_length=MAX_TEXTS),
]
Value = str | int | float | bool


class StrictRequest(BaseModel):
    """A request in which a misspelt name is an error, and whose cost is bounded."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def name_fields(cls, values: Any) -> Any:
        """Refuse unknown fields with the names of the known ones."""
        if isinstance(values, dict):
            known = list(cls.model_fields)
            unknown = [name for name in values if name not in known]
            if unknown:
                got = ascii(unknown[0])[:40]
                raise ValueError(f"Expected the fields {', '.join(known)}; got {got}.")
        return values

    @model_validator(mode="after")
    def limit_characters(self) -> Self:
        """Refuse texts that are too long together."""
        values = [value for _, value in self]
        texts = [text for value in values for text in (value if isinstance(value, list) else [value])]
        if sum(len(text) for text in texts if isinstance(text, str)) > MAX_TOTAL_CHARACTERS:
            raise ValueError(f"Expected at most {MAX_TOTAL_CHARACTERS} characters in all. Send fewer texts.")
        return self


class SearchRequest(StrictRequest):
    """Questions to search with."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"questions": ["Mikä on Suomen pääkaupunki?"], "top_k": 3}]}
    )

    questions: Texts = Field(description="Questions in any language.")
    top_k: int = Field(10, ge=1, le=MAX_TOP_K, description="Documents per question.")
    where: dict[str, Value | list[Value]] | None = Field(
        None, description="Metadata that documents must have: one value, or a list of values, per key."
    )

    @model_validator(mode="after")
    def limit_cost(self) -> Self:
        """Refuse filters and answers that would hold up everybody else."""
        values = [value if isinstance(value, list) else [value] for value in (self.where or {}).values()]
        if len(values) > MAX_FILTER_KEYS or sum(len(group) for group in values) > MAX_FILTER_VALUES:
            raise ValueError(f"Expected at most {MAX_FILTER_KEYS} keys and {MAX_FILTER_VALUES} values in `where`.")
        if len(self.questions) * self.top_k > MAX_DOCUMENTS:
            raise ValueError(f"Expected at most {MAX_DOCUMENTS} documents in all: fewer questions or a smaller top_k.")
        return self


class EncodeRequest(StrictRequest):
    """Texts to encode."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"texts": ["the sea"], "kind": "document"}]})

    texts: Texts
    kind: str = Field("query", pattern="^(query|document)$", description="`query` or `document`.")


class RerankRequest(StrictRequest):
    """A question and passages to order."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"question": "Missä on meri?", "passages": ["The sea is near.", "A king."]}]}
    )

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
        results = self.retriever.search(questions, requests[0].top_k, requests[0].where)
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
