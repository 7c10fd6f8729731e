"""Rows in, tensors out: what the trainers' batches are made of."""

from typing import Any

import torch
from torch import Tensor

from drdecr.modeling_drdecr import DrDecrProcessor

from .embeddings.cache import Tokens

Row = dict[str, Any]


class DistillationCollator:
    """Makes a batch of rows that have the same columns.

    Rows in (all texts; `?` marks columns that may be absent):

    - `query`: the question or sentence in any language;
    - `english`?: the same in English, for the teacher;
    - `document_ids`?: candidates of the row, at least two, the positive first if there is one;
    - `teacher_scores`?: the teacher's score of each candidate; `teacher_query_tokens`?: how many query tokens each sums
      over.

    Tensors out (batch b, candidates n, query tokens q, document tokens t; each group holds `input_ids`,
    `attention_mask`, `scoring_mask`, `text_mask`):

    - `query`: `(b, q)`;
    - `teacher_query`: `(b, q')`, or with `query_cache` `teacher_query_embeddings` `(b, q', dim)` and its masks;
    - `document`: `(b, n, t)`, and `teacher_document` likewise if the teacher has another processor; or with
      `document_cache` `document_embeddings` `(b, n, t, dim)` and `document_scoring_mask`;
    - `document_keys`: int64 `(b, n)`, equal for equal passages;
    - `anchor`: `(b, t)`, the English text in the document slot, where `anchor` is asked for and rows have no
      candidates;
    - `teacher_scores`: float32 `(b, n)`; `teacher_query_tokens`: `(b,)`.

    Args:
        processor: the student's.
        passages: `{document_id: text}`; needed for rows with candidates.
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
        passages: dict[str, str] | None = None,
        teacher_processor: DrDecrProcessor | None = None,
        query_cache: Tokens | None = None,
        document_cache: Tokens | None = None,
        anchor: bool = False,
        scores_suffice: bool = False,
    ) -> None:
        self.processor, self.passages = processor, passages or {}
        self.teacher_processor = teacher_processor or processor
        self.query_cache, self.document_cache = query_cache, document_cache
        self.anchor, self.scores_suffice = anchor, scores_suffice
        self._keys = {name: key for key, name in enumerate(self.passages)}

    def __call__(self, rows: list[Row]) -> dict[str, Any]:
        """Make the batch."""
        batch: dict[str, Any] = {"query": dict(self.processor.process_queries(_texts(rows, "query")))}
        has_candidates = "document_ids" in rows[0]
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
        ids = [list(row.get("document_ids") or []) for row in rows]
        sizes = {len(row) for row in ids}
        if len(sizes) > 1 or min(sizes) < 2:
            raise ValueError(
                f"document_ids: expected the same number of candidates in each row, at least two, got {sorted(sizes)}. "
                "A softmax over one candidate teaches nothing."
            )
        flat = [name for row in ids for name in row]
        unknown = [name for name in flat if name not in self._keys]
        if unknown:
            raise ValueError(
                f"document_ids: {unknown[0]!r} is not among the {len(self._keys)} passages. Give the passages that the "
                "candidates were taken from."
            )
        shape = (len(ids), sizes.pop())
        batch: dict[str, Any] = {"document_keys": torch.tensor([self._keys[name] for name in flat]).view(shape)}
        if self.document_cache is not None:
            embeddings, scoring_mask, _ = self.document_cache.padded(flat)
            batch["document_embeddings"] = embeddings.unflatten(0, shape)
            batch["document_scoring_mask"] = scoring_mask.unflatten(0, shape)
            return batch
        documents = self.processor.process_documents([self.passages[name] for name in flat])
        batch["document"] = {name: tensor.unflatten(0, shape) for name, tensor in documents.items()}
        is_scored = self.scores_suffice and "teacher_scores" in rows[0]
        if self.teacher_processor is not self.processor and not is_scored:
            documents = self.teacher_processor.process_documents([self.passages[name] for name in flat])
            batch["teacher_document"] = {name: tensor.unflatten(0, shape) for name, tensor in documents.items()}
        return batch


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
