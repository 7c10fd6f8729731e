"""A student measured on questions during its training, the work shared out over the processes."""

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


class Validation:
    """Measures a student's MRR@10 on the validation sets, by language and on average.

    A student that learns to search the teacher's index (`data.cache_passages`, `data.passage_tokens`) is measured on
    that index, if there is a teacher to make it. Of several processes each encodes and keeps a share of the passages,
    and a share of the questions; all must call it, and all get the same figures.

    Args:
        recipe: names the sets.
        teacher: of the stage, if it has one.
    """

    def __init__(self, recipe: Recipe, teacher: DrDecrTeacher | None) -> None:
        self.sets = [read_validation(entry) for entry in recipe.validation]
        is_fixed = recipe.data.cache_passages or recipe.data.passage_tokens
        self._indexes = [index_share(teacher, questions) for questions in self.sets] if is_fixed and teacher else None

    @property
    def figures(self) -> list[str]:
        """Names of what is measured, the one that chooses the best checkpoint first."""
        codes = {code for questions in self.sets for code in questions.languages.values()}
        return [BEST, *(f"mrr@10_{code}" for code in sorted(codes))]

    def __call__(self, model: DrDecrModel) -> dict[str, float]:
        """Return the figures of a student by their names."""
        by_language: dict[str, list[float]] = {}
        for number, questions in enumerate(self.sets):
            index = self._indexes[number] if self._indexes else index_share(model, questions)
            languages = questions.languages
            for query_id, score in score_in_shares(model, questions, index)[MEASURE].items():
                by_language.setdefault(languages[query_id], []).append(score)
        means = {code: sum(scores) / len(scores) for code, scores in sorted(by_language.items())}
        return {**{f"mrr@10_{code}": mean for code, mean in means.items()}, BEST: sum(means.values()) / len(means)}


def read_validation(entry: dict[str, Any]) -> QuestionSet:
    """Read a validation set; passages of the question sets under `distractors` make its collection larger and harder.

    Raises:
        ValueError: where a distractor has the id of a passage, or of another distractor, and another text.
    """
    questions = read_questions({name: value for name, value in entry.items() if name != "distractors"})
    others = [read_questions(other) for other in entry.get("distractors") or []]
    return replace(questions, passages=joined_passages([questions, *others]))


def index_share(model: DrDecrModel, questions: QuestionSet) -> ExactIndex | None:
    """Encode this process's share of a collection; None where there are fewer passages than processes."""
    names = _share(list(questions.passages))
    return ExactIndex(names, model.encode_documents([questions.passages[name] for name in names])) if names else None


def score_in_shares(
    model: DrDecrModel, questions: QuestionSet, index: ExactIndex | None
) -> dict[str, dict[str, float]]:
    """Search every question in all processes' shares and return its scores by measure.

    Args:
        model: encodes the questions, each process its share.
        questions: with their answers.
        index: this process's share of the passages.
    """
    texts = questions.questions["query"]
    distinct = list(dict.fromkeys(texts))
    queries = _in_turn(model.encode_queries(_share(distinct)))
    hits = index.search(queries, top_k=min(DEPTH, len(index))).as_run(distinct) if index is not None else {}
    runs = gather_object([hits])
    run = {
        query_id: {document_id: score for part in runs for document_id, score in part.get(text, {}).items()}
        for query_id, text in zip(questions.questions["query_id"], texts, strict=True)
    }
    return per_query_scores(run, questions.qrels)


def _share(items: list[str]) -> list[str]:
    """Return every n-th item, from this process's own number on."""
    state = PartialState()
    return items[state.process_index :: state.num_processes]


def _in_turn(share: list[Tensor]) -> list[Tensor]:
    """Join what all processes made of their shares, in the order of the whole."""
    shares = gather_object([share])
    return [part[place] for place in range(max(map(len, shares))) for part in shares if place < len(part)]
