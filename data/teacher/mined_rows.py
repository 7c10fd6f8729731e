"""The phases of `drdecr data mine`, each a folder of parts that a killed call goes on with: questions, rows, passages.

Rankings, between the first two, are in `mined_rankings.py`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datasets import Dataset, Features, List, Value
from tqdm.auto import tqdm

from drdecr.data.languages import normalise_text
from drdecr.data.passages import PassageStore
from drdecr.data.prepare.cleaning import text_key
from drdecr.data.prepare.leakage import HeldOutPassages
from drdecr.data.prepare.preparation import SeenKeys
from drdecr.data.row_parts import RowParts
from drdecr.data.schema import BATCH, QuestionSet
from drdecr.data.step_work import StepWork

from .negatives import ROW_FEATURES, NegativeSettings, rows_with_negatives
from .scorers import TeacherScorer
from .step_rows import passage_parts

QUESTIONS_PER_PART = 512
"""Questions of a ranking's part, and of a shard of rows: with 300 rows each, some 30 MB."""

DROPPED = "questions dropped, repeated or held out"
LEAKS = {"held_out": "passages of rows that answer a held-out question", "overlap": "passages of rows that nearly do"}

_TEXT, _IDS = Value("string"), List(Value("string"))
_ASKED = Features(
    dict.fromkeys(("query_id", "query", "english", "language"), _TEXT) | {"document_ids": _IDS, "answers": _IDS}
).arrow_schema


def select_questions(work: StepWork, sets: Sequence[QuestionSet], held_out: Iterable[str]) -> RowParts:
    """Keep what mining reads of questions that neither repeat an earlier one nor are held out."""
    parts = work.parts("questions", _ASKED, anew=True)
    if parts.is_complete:
        return parts
    forbidden = {text_key(normalise_text(text)) for text in held_out}
    seen = SeenKeys(work.folder / "seen.sqlite")
    stream = (row for found in sets for row in _asked(found))
    while batch := list(islice(stream, 10 * BATCH)):
        kept = []
        for row in batch:
            texts = [normalise_text(row["query"]), normalise_text(row["english"])]
            is_new = seen.add(text_key("\n".join(texts)))
            if is_new and forbidden.isdisjoint(map(text_key, texts)):
                kept.append(row)
        parts.write(pa.Table.from_pylist(kept, _ASKED), len(batch), {DROPPED: len(batch) - len(kept)})
    seen.close()
    parts.complete()
    return parts


def _asked(found: QuestionSet) -> Iterator[dict[str, Any]]:
    """Yield the columns that mining reads; an English set is its own translation."""
    rows = found.questions
    is_english = "english" not in rows.column_names
    if is_english and set(rows.unique("language")) != {"en"}:
        raise ValueError(f"{found.name}: expected a column `english`, got none. Translate it: `drdecr data translate`.")
    for batch in rows.iter(BATCH):
        for values in zip(*batch.values(), strict=True):
            row = dict(zip(batch, values, strict=True))
            answers = row.get("answers") or ([row["answer"]] if row.get("answer") else [])
            english = row["query"] if is_english else row["english"]
            yield {**row, "english": english, "answers": answers}


def questions_by_part(questions: RowParts, start: int = 0) -> Iterator[list[dict[str, Any]]]:
    """Yield `QUESTIONS_PER_PART` questions at once, from a part on."""
    rows = (row for table in questions.tables() for row in table.to_pylist())
    left = islice(rows, start * QUESTIONS_PER_PART, None)
    while batch := list(islice(left, QUESTIONS_PER_PART)):
        yield batch


def shown(questions: RowParts, parts: RowParts, what: str) -> Iterator[list[dict[str, Any]]]:
    """Yield the parts of questions that are not done yet, with a progress bar."""
    done = len(parts.records)
    with tqdm(
        desc=what, total=len(questions), initial=min(done * QUESTIONS_PER_PART, len(questions)), disable=None
    ) as bar:
        for batch in questions_by_part(questions, done):
            yield batch
            bar.update(len(batch))


def passages_in(questions: RowParts, rankings: RowParts, passages: PassageStore) -> PassageStore:
    """Return the passages that stand in a ranking or are labelled: those that a teacher must read."""
    wanted = np.zeros(passages.num_rows, dtype=np.bool_)
    for table in rankings.tables():
        wanted[pa.compute.list_flatten(table["rows"]).to_numpy()] = True
    _mark(questions, passages, wanted)
    return passages.only(wanted)


def _mark(rows: RowParts, passages: PassageStore, wanted: npt.NDArray[np.bool_]) -> None:
    """Mark what `document_ids` name."""
    for table in rows.tables():
        for name in pa.compute.list_flatten(table["document_ids"]).unique().to_pylist():
            wanted[passages.row_of(name)] = True


def english_texts(questions: RowParts) -> Sequence[str]:
    """Return the English questions as a sequence that lies on disk."""
    files = [str(file) for file in questions.shards()]
    cache = str(questions.folder / "cache")
    rows: Any = Dataset.from_parquet(files, cache_dir=cache, columns=["english"])
    texts: Sequence[str] = rows["english"]
    return texts


def build_candidate_rows(
    work: StepWork,
    questions: RowParts,
    rankings: RowParts,
    passages: PassageStore,
    settings: NegativeSettings,
    scorer: TeacherScorer | None,
) -> RowParts:
    """Choose positives and negatives (`rows_with_negatives`), a part of the questions at a time."""
    parts = work.parts("rows", Features(ROW_FEATURES).arrow_schema)
    batches = zip(shown(questions, parts, "choosing"), rankings.tables(len(parts.records)), strict=True)
    for batch, table in batches if not parts.is_complete else ():
        ranked = [dict(zip(map(passages.id_at, row["rows"]), row["scores"], strict=True)) for row in table.to_pylist()]
        tokens = None
        if scorer is not None:
            tokens = dict(zip([row["english"] for row in batch], scorer.query_tokens(batch), strict=True))
        rows, counts = rows_with_negatives(
            batch, ranked, passages, settings, scorer.score if scorer is not None else None, tokens
        )
        parts.write(rows.with_format("arrow")[:] if len(rows) else parts.schema.empty_table(), len(batch), counts)
    parts.complete()
    return parts


def referenced_passages(
    work: StepWork, rows: RowParts, passages: PassageStore, held_out: HeldOutPassages
) -> tuple[RowParts, dict[str, int]]:
    """Write the passages that the rows name, in the collection's order, and count those that tests are answered by."""
    wanted = np.zeros(passages.num_rows, dtype=np.bool_)
    _mark(rows, passages, wanted)
    used = passages.only(wanted)
    leaks = Counter(held_out.leak(text) for text in used.values()) if len(held_out) else Counter()
    return passage_parts(work, used), {told: leaks[leak] for leak, told in LEAKS.items()}
