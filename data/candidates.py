"""Candidates for relevance distillation where no gold passage is known: what the teacher finds with the English question."""

from datasets import Dataset

from drdecr.modeling_drdecr import DrDecrModel
from drdecr.retrieval import ExactIndex

from .token_cache import TokenCache


def retrieve_candidates(
    questions: Dataset,
    teacher: DrDecrModel,
    passages: TokenCache,
    num_candidates: int = 16,
    depth: int | None = None,
    batch_size: int = 64,
) -> Dataset:
    """Let the teacher find candidates for each question and say how relevant they are.

    The teacher reads the English question and searches all passages exactly (paper, section 4: positives and negatives of
    XOR-TyDi questions are found with the English question). The best passage stands first. With `depth` larger than
    `num_candidates`, the later half of the candidates is spread evenly over the ranking down to `depth`.

    Args:
        questions: rows with `english`; equal questions are searched once.
        teacher: reads the English questions.
        passages: the teacher's tokens of the pool.
        num_candidates: candidates a question (default 16).
        depth: how far down the ranking candidates are taken from; default: no further than needed.
        batch_size: queries a search step.

    Returns:
        The questions with the columns `document_ids`, `teacher_scores` (sums over query tokens) and
        `teacher_query_tokens`.

    Raises:
        ValueError: for fewer than two candidates, or a pool smaller than `depth`.
    """
    depth = max(depth or num_candidates, num_candidates)
    if num_candidates < 2 or depth > len(passages):
        raise ValueError(
            f"num_candidates: expected at least 2 and a depth of at most the pool's {len(passages)} passages, got "
            f"{num_candidates} and {depth}."
        )
    english = list(dict.fromkeys(questions["english"]))
    tokens = teacher.encode_queries(english, batch_size=batch_size)
    ids = list(passages.rows)
    index = ExactIndex(ids, [passages.tokens(name).float() for name in ids])
    hits = index.search(tokens, top_k=depth, batch_size=batch_size)
    ranks = candidate_ranks(num_candidates, depth)
    found = {
        text: ([names[rank] for rank in ranks], [scores[rank] for rank in ranks], len(query))
        for text, names, scores, query in zip(english, hits.document_ids, hits.scores, tokens, strict=True)
    }
    columns = list(zip(*(found[text] for text in questions["english"]), strict=True))
    names = ("document_ids", "teacher_scores", "teacher_query_tokens")
    for name, values in zip(names, columns, strict=True):
        questions = questions.add_column(name, list(values))
    return questions


def candidate_ranks(num_candidates: int, depth: int) -> list[int]:
    """Return which ranks become candidates: the first half from the top, the rest spread evenly down to `depth`.

    >>> candidate_ranks(6, 6), candidate_ranks(6, 100)
    ([0, 1, 2, 3, 4, 5], [0, 1, 2, 35, 67, 99])
    """
    top = num_candidates if depth == num_candidates else (num_candidates + 1) // 2
    rest = num_candidates - top
    return [*range(top), *(top - 1 + round((depth - top) * step / rest) for step in range(1, rest + 1))]
