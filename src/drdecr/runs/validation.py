"""A student measured on questions during its training, the work shared out over the processes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor

from drdecr.data.schema import QuestionSet, joined_passages
from drdecr.data.sources import read_questions
from drdecr.evaluation.metrics import MEASURE, per_query_scores
from drdecr.modeling_drdecr import DrDecrModel, DrDecrTeacher
from drdecr.retrieval import ExactIndex

from .recipe import Recipe

BEST = "mrr@10_avg"
DEPTH = 100
"""Passages a question that are kept of a search; MRR@10 looks at ten."""


def build_validation(recipe: Recipe, teacher: DrDecrTeacher | None) -> Callable[[DrDecrModel], dict[str, float]]:
    """Return a function that measures a student's MRR@10 on the validation sets, by language and on average.

    A student that learns to search the teacher's index (`data.cache_passages`, `data.passage_tokens`) is measured on
    that index, if there is a teacher to make it. Of several processes each encodes and keeps a share of the passages,
    and a share of the questions; all must call the function, and all get the same figures.
    """
    sets = [read_validation(entry) for entry in recipe.validation]
    is_fixed = (recipe.data.cache_passages or recipe.data.passage_tokens) and teacher is not None
    fixed = [index_share(teacher, found) for found in sets] if is_fixed else None  # type: ignore[arg-type]

    def validate(model: DrDecrModel) -> dict[str, float]:
        by_language: dict[str, list[float]] = {}
        for number, found in enumerate(sets):
            index = fixed[number] if fixed else index_share(model, found)
            languages = found.languages
            for query_id, score in score_in_shares(model, found, index)[MEASURE].items():
                by_language.setdefault(languages[query_id], []).append(score)
        means = {code: sum(scores) / len(scores) for code, scores in sorted(by_language.items())}
        figures = {f"mrr@10_{code}": mean for code, mean in means.items()}
        return {**figures, BEST: sum(means.values()) / len(means)}

    return validate


def read_validation(entry: dict[str, Any]) -> QuestionSet:
    """Read a validation set; passages of the question sets under `distractors` make its collection larger and harder.

    Raises:
        ValueError: where a distractor has the id of a passage, or of another distractor, and another text.
    """
    found = read_questions({name: value for name, value in entry.items() if name != "distractors"})
    others = [read_questions(other) for other in entry.get("distractors") or []]
    return replace(found, passages=joined_passages([found, *others]))


def index_share(model: DrDecrModel, found: QuestionSet) -> ExactIndex | None:
    """Encode this process's share of a collection; None where there are fewer passages than processes."""
    names = _share(list(found.passages))
    return ExactIndex(names, model.encode_documents([found.passages[name] for name in names])) if names else None


def score_in_shares(model: DrDecrModel, found: QuestionSet, index: ExactIndex | None) -> dict[str, dict[str, float]]:
    """Search every question in all processes' shares and return its scores by measure.

    Args:
        model: encodes the questions, each process its share.
        found: the questions and their answers.
        index: this process's share of the passages.
    """
    texts = found.questions["query"]
    asked = list(dict.fromkeys(texts))
    queries = _in_turn(model.encode_queries(_share(asked)))
    hits = index.search(queries, top_k=min(DEPTH, len(index))).as_run(asked) if index is not None else {}
    runs = gather_object([hits])
    run = {
        query_id: {document_id: score for part in runs for document_id, score in part.get(text, {}).items()}
        for query_id, text in zip(found.questions["query_id"], texts, strict=True)
    }
    return per_query_scores(run, found.qrels)


def _share(items: list[str]) -> list[str]:
    """Return every n-th item, from this process's own number on."""
    state = PartialState()
    return items[state.process_index :: state.num_processes]


def _in_turn(own: list[Tensor]) -> list[Tensor]:
    """Join what all processes made of their shares, in the order of the whole."""
    parts = gather_object([own])
    return [part[place] for place in range(max(map(len, parts))) for part in parts if place < len(part)]
