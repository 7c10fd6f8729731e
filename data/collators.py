"""Rows in, tensors out: what the trainers' batches are made of."""

import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

from drdecr.modeling_drdecr import DrDecrProcessor

from .embeddings.cache import Tokens

Row = dict[str, Any]

CANDIDATE_COLUMNS = ("document_ids", "documents", "positive")
"""Columns of which the first one that rows have names their candidates."""


class DistillationCollator:
    """Makes a batch of rows that have the same columns.

    Rows in (all texts; `?` marks columns that may be absent):

    - `query`: the question or sentence in any language;
    - `english`?: the same in English, for the teacher;
    - candidates, the positive first if there is one, at least two but for terms over the batch: `document_ids`?, names
      among `passages`; or texts, `documents`?, a list, or `positive`? and `negative`? or `negative_1`?, `negative_2`? and so on;
    - `answers`?: ids of passages, or texts, of which none of the batch is a negative to this question: a passage that is one of
      them, or in which one stands as whole words;
    - `teacher_scores`?: the teacher's score of each candidate; `teacher_query_tokens`?: how many query tokens each sums
      over.

    Tensors out (batch b, candidates n, query tokens q, document tokens t; each group holds `input_ids`,
    `attention_mask`, `scoring_mask`, `text_mask`):

    - `query`: `(b, q)`;
    - `teacher_query`: `(b, q')`, or with `query_cache` `teacher_query_embeddings` `(b, q', dim)` and its masks;
    - `document`: `(b, n, t)`, and `teacher_document` likewise if the teacher has another processor; or with
      `document_cache` `document_embeddings` `(b, n, t, dim)` and `document_scoring_mask`;
    - `document_keys`: int64 `(b, n)`, equal for equal texts; `question_keys`: int64 `(b,)`, equal for rows that ask the
      same, in English where they have it; `answer_keys` with `answers`: int64 `(b, k)`, the keys of passages that answer, the
      row's positive repeated where there are fewer;
    - `anchor`: `(b, t)`, the English text in the document slot, where `anchor` is asked for and rows have no
      candidates;
    - `teacher_scores`: float32 `(b, n)`; `teacher_query_tokens`: `(b,)`.

    Args:
        processor: the student's.
        passages: `{document_id: text}`; needed for rows with `document_ids`.
        teacher_processor: the teacher's, if it has another tokenizer.
        query_cache: the teacher's tokens of the English texts: it then reads no question.
        document_cache: the teacher's tokens of the passages: neither model then reads a passage, and the student learns
            to search the teacher's index.
        anchor: whether to make the English anchor (default False).
        scores_suffice: whether `teacher_scores` are all that is asked of a teacher with another processor, as they are for
            `relevance_over: row`: `teacher_document` is then not made for rows that have them (default False).

    Raises:
        ValueError: naming the column, for rows that lack what the settings need, empty texts, one candidate, unknown
            passages, or scores that are not finite.

    Example:
        >>> collate = DistillationCollator(processor, passages={"p1": "A bridge.", "p2": "A tower."})
        >>> batch = collate([{"query": "¿Un puente?", "document_ids": ["p1", "p2"], "teacher_scores": [9.0, 4.0]}])
        >>> batch["query"]["input_ids"].shape, batch["document"]["input_ids"].shape, batch["teacher_scores"].shape
        (torch.Size([1, 6]), torch.Size([1, 2, 5]), torch.Size([1, 2]))
    """

    def __init__(
        self,
        processor: DrDecrProcessor,
        passages: Mapping[str, str] | None = None,
        teacher_processor: DrDecrProcessor | None = None,
        query_cache: Tokens | None = None,
        document_cache: Tokens | None = None,
        anchor: bool = False,
        scores_suffice: bool = False,
    ) -> None:
        self.processor, self.passages = processor, {} if passages is None else passages
        self.teacher_processor = teacher_processor or processor
        self.query_cache, self.document_cache = query_cache, document_cache
        self.anchor, self.scores_suffice = anchor, scores_suffice

    def __call__(self, rows: list[Row]) -> dict[str, Any]:
        """Make the batch."""
        batch: dict[str, Any] = {"query": dict(self.processor.process_queries(_texts(rows, "query")))}
        has_candidates = any(column in rows[0] for column in CANDIDATE_COLUMNS)
        if "english" in rows[0]:
            batch.update(self._english(_texts(rows, "english"), with_anchor=self.anchor and not has_candidates))
        if has_candidates:
            batch.update(self._candidates(rows))
        batch.update(_teacher_columns(rows))
        _check_scores(batch)
        return batch

    def _english(self, texts: list[str], with_anchor: bool) -> dict[str, Any]:
        batch: dict[str, Any] = {}
        if self.query_cache is None:
            batch["teacher_query"] = dict(self.teacher_processor.process_queries(texts))
        else:
            names = ("teacher_query_embeddings", "teacher_query_scoring_mask", "teacher_query_text_mask")
            batch.update(zip(names, self.query_cache.padded(texts), strict=True))
        if with_anchor:
            batch["anchor"] = dict(self.processor.process_documents(texts))
        return batch

    def _candidates(self, rows: list[Row]) -> dict[str, Any]:
        column = next(column for column in CANDIDATE_COLUMNS if column in rows[0])
        documents = [self._documents(row, column) for row in rows]
        sizes = {len(row) for row in documents}
        if len(sizes) > 1 or not min(sizes):
            raise ValueError(
                f"{column}: expected the same number of candidates in each row, at least one, got {sorted(sizes)}. Give "
                "each row as many, or leave rows out."
            )
        shape = (len(rows), sizes.pop())
        texts = [text for row in documents for text in row]
        batch: dict[str, Any] = self._keys(rows, documents)
        if self.document_cache is not None:
            if column != "document_ids":
                raise ValueError(
                    "document_cache: expected rows with `document_ids`, got texts. Name the cached passages."
                )
            names = [name for row in rows for name in row["document_ids"]]
            embeddings, scoring_mask, _ = self.document_cache.padded(names)
            batch["document_embeddings"] = embeddings.unflatten(0, shape)
            batch["document_scoring_mask"] = scoring_mask.unflatten(0, shape)
            return batch
        batch["document"] = _unflattened(self.processor.process_documents(texts), shape)
        is_scored = self.scores_suffice and "teacher_scores" in rows[0]
        if self.teacher_processor is not self.processor and not is_scored:
            batch["teacher_document"] = _unflattened(self.teacher_processor.process_documents(texts), shape)
        return batch

    def _documents(self, row: Row, column: str) -> list[str]:
        """Return the texts of a row's candidates, which a column or, with `positive`, several hold."""
        if column == "document_ids":
            names = list(row.get(column) or [])
            unknown = next((name for name in names if name not in self.passages), None)
            if unknown is not None:
                raise ValueError(
                    f"document_ids: {unknown!r} is not among the {len(self.passages)} passages. Give the passages that the "
                    "candidates were taken from."
                )
            return [self.passages[name] for name in names]
        texts: list[Any] = list(row.get(column) or []) if column == "documents" else [row.get(column)]
        if column == "positive":
            negatives = [name for name in row if re.fullmatch(r"negative(_\d+)?", name)]
            texts += [row[name] for name in sorted(negatives, key=lambda name: (len(name), name))]
        for text in texts:
            if not isinstance(text, str) or not text.strip():
                raise ValueError(
                    f"{column}: expected a text for each candidate, got {text!r} in {_named(row)}. Drop the row or fill it."
                )
        return texts

    def _keys(self, rows: list[Row], documents: list[list[str]]) -> dict[str, Tensor]:
        """Return what passages and questions are told apart by."""
        asked = [row.get("english") or row["query"] for row in rows]
        keys = {
            "document_keys": torch.tensor([[_key(text) for text in row] for row in documents]),
            "question_keys": torch.tensor([_key(text) for text in asked]),
        }
        if "answers" in rows[0]:
            texts = list(dict.fromkeys(text for row in documents for text in row))
            answering = [self._answering(row, texts) for row in rows]
            width = max(1, *map(len, answering))
            positives = keys["document_keys"][:, 0].tolist()
            padded = [(known + [own] * width)[:width] for known, own in zip(answering, positives, strict=True)]
            keys["answer_keys"] = torch.tensor(padded)
        return keys

    def _answering(self, row: Row, texts: list[str]) -> list[int]:
        """Return the keys of the texts that answer a row's question."""
        answers = [str(self.passages.get(answer, answer)).strip() for answer in row.get("answers") or []]
        words = "|".join(re.escape(answer) for answer in answers if answer)
        pattern = re.compile(rf"(?<!\w)({words})(?!\w)", re.IGNORECASE)
        return [_key(text) for text in texts if words and pattern.search(text)]


def _key(text: str) -> int:
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def _unflattened(texts: Mapping[str, Tensor], shape: tuple[int, int]) -> dict[str, Tensor]:
    return {name: tensor.unflatten(0, shape) for name, tensor in texts.items()}


def _texts(rows: list[Row], column: str) -> list[str]:
    texts: list[Any] = [row.get(column) for row in rows]
    for row, text in zip(rows, texts, strict=True):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(
                f"{column}: expected a text in every row, got {text!r} in {_named(row)}. Drop the row or fill it."
            )
    return texts


def _named(row: Row) -> str:
    name = next(
        (f"{key} {row[key]!r}" for key in ("query_id", "row_id", "query") if row.get(key)), "a row without name"
    )
    return name[:120]


def _teacher_columns(rows: list[Row]) -> dict[str, Tensor]:
    columns: dict[str, Tensor] = {}
    for column, dtype in (("teacher_scores", torch.float32), ("teacher_query_tokens", torch.int64)):
        if column not in rows[0]:
            continue
        values: list[Any] = [row.get(column) for row in rows]
        empty = next((row for row, value in zip(rows, values, strict=True) if value is None), None)
        if empty is not None:
            raise ValueError(
                f"{column}: expected a value in every row, got none in {_named(empty)}. Annotate it or drop it."
            )
        if column == "teacher_scores" and len({len(value) for value in values}) > 1:
            raise ValueError(
                f"{column}: expected the same number of scores in each row, got "
                f"{sorted({len(value) for value in values})}."
            )
        columns[column] = torch.tensor(values, dtype=dtype)
    return columns


def _check_scores(batch: dict[str, Any]) -> None:
    scores: Tensor | None = batch.get("teacher_scores")
    if scores is None:
        return
    if not torch.isfinite(scores).all():
        raise ValueError("teacher_scores hold NaN or infinity. Annotate again, or drop rows with empty passages.")
    if "document_keys" in batch and scores.shape != batch["document_keys"].shape:
        raise ValueError(
            f"teacher_scores: expected one score for each candidate, got {tuple(scores.shape)} for "
            f"{tuple(batch['document_keys'].shape)} candidates."
        )
