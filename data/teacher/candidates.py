"""Candidates for relevance distillation: what the teacher finds with the English question, and hard negatives."""

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import normalize
from tqdm.auto import tqdm

from drdecr.data.embeddings.cache import Tokens
from drdecr.modeling_drdecr import DrDecrModel, maxsim_candidates, pad_embeddings
from drdecr.retrieval import ExactIndex

RANKINGS = ("maxsim", "mean")
"""How the pool is ranked for candidates."""


def retrieve_candidates(
    questions: Dataset,
    teacher: DrDecrModel,
    passages: Tokens,
    num_candidates: int = 16,
    depth: int | None = None,
    batch_size: int = 64,
    ranked_by: str = "maxsim",
    query_tokens: Tokens | None = None,
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
        ranked_by: `maxsim` (default) scores every passage; `mean` ranks by the cosine of mean tokens, in a small part of
            the time, and scores only what it chooses: other candidates, no wrong scores.
        query_tokens: the teacher's tokens of the English questions, if they are known already.

    Returns:
        The questions with the columns `document_ids`, `teacher_scores` (sums over query tokens) and
        `teacher_query_tokens`.

    Raises:
        ValueError: for fewer than two candidates, a pool smaller than `depth`, or an unknown ranking.
    """
    depth = max(depth or num_candidates, num_candidates)
    if num_candidates < 2 or depth > len(passages):
        raise ValueError(
            f"num_candidates: expected at least 2 and a depth of at most the pool's {len(passages)} passages, got "
            f"{num_candidates} and {depth}."
        )
    if ranked_by not in RANKINGS:
        raise ValueError(f"candidates_by: expected one of {', '.join(RANKINGS)}, got {ranked_by!r}.")
    english = list(dict.fromkeys(questions["english"]))
    if query_tokens is None:
        tokens = teacher.encode_queries(english, batch_size=batch_size)
    else:
        tokens = [query_tokens.tokens(text) for text in english]
    ranks = candidate_ranks(num_candidates, depth)
    if ranked_by == "mean":
        names = [[row[rank] for rank in ranks] for row in _nearest_means(tokens, passages, depth)]
        rows = _scored(tokens, names, passages, batch_size)
    else:
        hits = _index(passages, teacher).search(tokens, top_k=depth, batch_size=batch_size)
        rows = [
            ([names[rank] for rank in ranks], [scores[rank] for rank in ranks], len(query))
            for names, scores, query in zip(hits.document_ids, hits.scores, tokens, strict=True)
        ]
    found = dict(zip(english, rows, strict=True))
    return _with_columns(questions, [found[text] for text in questions["english"]])


def _nearest_means(queries: list[Tensor], passages: Tokens, depth: int) -> list[list[str]]:
    """Rank passages by the cosine of their mean token with the query's, the first `depth` of them.

    A text without a scoring token has the cosine 0 with every other.
    """
    names = list(passages.rows)
    # Sums, which point where the means do: a mean of no token is NaN, and that would stand first.
    means = torch.stack([normalize(passages.tokens(name).float().sum(dim=0), dim=0) for name in names])
    query_means = torch.stack([normalize(tokens.float().sum(dim=0), dim=0) for tokens in queries])
    nearest = [(part @ means.T).topk(depth, dim=1).indices.tolist() for part in query_means.split(1024)]
    return [[names[place] for place in row] for rows in nearest for row in rows]


@torch.no_grad()
def _scored(
    queries: list[Tensor], chosen: list[list[str]], passages: Tokens, batch_size: int, best_first: bool = True
) -> list[tuple[list[str], list[float], int]]:
    """Score each query's chosen passages exactly, with the number of query tokens."""
    rows: list[tuple[list[str], list[float], int]] = []
    for start in tqdm(range(0, len(queries), batch_size), desc="scoring candidates", unit="batch", disable=None):
        names = chosen[start : start + batch_size]
        query, query_mask = pad_embeddings([tokens.float() for tokens in queries[start : start + batch_size]])
        documents, mask, _ = passages.padded([name for row in names for name in row])
        shape = (len(names), len(names[0]))
        documents, mask = documents.float().unflatten(0, shape), mask.unflatten(0, shape)
        best = maxsim_candidates(query, documents, query_mask, mask)
        order = torch.arange(shape[1]).expand(shape)
        if best_first:
            best, order = best.sort(dim=1, descending=True, stable=True)
        for row, scores, places, tokens in zip(
            names, best.tolist(), order.tolist(), query_mask.sum(dim=1), strict=True
        ):
            rows.append(([row[place] for place in places], scores, int(tokens)))
    return rows


def candidate_ranks(num_candidates: int, depth: int) -> list[int]:
    """Return which ranks become candidates: the first half from the top, the rest spread evenly down to `depth`.

    >>> candidate_ranks(6, 6), candidate_ranks(6, 100)
    ([0, 1, 2, 3, 4, 5], [0, 1, 2, 34, 67, 99])
    """
    top = num_candidates if depth == num_candidates else (num_candidates + 1) // 2
    rest = num_candidates - top
    return [*range(top), *(top - 1 + round((depth - top) * step / rest) for step in range(1, rest + 1))]


def add_negatives(
    questions: Dataset,
    reader: DrDecrModel,
    passages: Tokens,
    num_candidates: int = 2,
    depth: int = 30,
    seed: int = 12345,
) -> Dataset:
    """Give labelled questions hard negatives: passages that the reader ranks high for the English question, yet no answer.

    Args:
        questions: rows with `english` and `document_ids`, the answers. Rows with one English text share their answers.
        reader: the model that ranks: a teacher, or the model about to be trained.
        passages: its tokens of the collection.
        num_candidates: candidates a row (default 2, the paper's): one answer and the rest negatives.
        depth: each row draws its negatives from this many best passages (default 30), so that rows of one question differ.
        seed: of the drawing.

    Returns:
        One row a question, `document_ids` holding its first answer and then the negatives, best first, with
        `positive_ids` (all answers of the question) and `teacher_scores` and `teacher_query_tokens` of the reader.

    Raises:
        ValueError: if the collection is too small for that many negatives, or a question has no answer in it.
    """
    if not all(questions["document_ids"]):
        raise ValueError(
            "questions: expected a passage that answers each, got questions with answers only. Find their passages first."
        )
    answers = dict(zip(questions["english"], known_answers(questions), strict=True))
    wrong = len(passages) - max(len(ids) for ids in answers.values())  # passages that answer no single question
    if num_candidates < 2 or wrong < num_candidates - 1:
        raise ValueError(
            f"num_candidates: expected 2 to {wrong + 1}, an answer and passages that are none, got {num_candidates}. The "
            f"collection has {len(passages)} passages, and one question has {len(passages) - wrong} answers among them."
        )
    ranked = _ranked_negatives(answers, reader, passages, min(max(depth, num_candidates), wrong))
    generator = np.random.default_rng(seed)
    rows = []
    for text, ids in zip(questions["english"], questions["document_ids"], strict=True):
        names, scores, num_tokens = ranked[text]
        drawn = sorted(generator.choice(len(names), num_candidates - 1, replace=False).tolist())
        chosen = [ids[0], *(names[rank] for rank in drawn)]
        rows.append((chosen, [scores[name] for name in chosen], num_tokens))
    questions = questions.add_column("positive_ids", [sorted(answers[text]) for text in questions["english"]])
    return _with_columns(questions.remove_columns("document_ids"), rows)


def given_candidates(
    questions: Dataset, num_candidates: int = 2, seed: int = 12345, share: float = 0.9
) -> tuple[Dataset, int]:
    """Make candidate rows of the negatives that a set brings with it, such as those of triples: nothing is searched.

    Args:
        questions: rows with `document_ids`, the answers, and `irrelevant_ids`, passages that are none. Rows with one text
            share their answers.
        num_candidates: candidates a row at most (default 2): the row's first answer and negatives drawn from its own.
        seed: of the drawing.
        share: of the rows that must have enough negatives (default 0.9). Where they have fewer than `num_candidates - 1`,
            all rows get fewer, for a batch needs as many candidates in each.

    Returns:
        The rows with `document_ids` (answer first) and `positive_ids` (all answers of the question), without those that
        have too few negatives; and the number of candidates.

    Raises:
        ValueError: for fewer than two candidates, or rows without a negative.
    """
    answers = known_answers(questions)
    negatives = [
        [name for name in dict.fromkeys(names) if name not in known]
        for names, known in zip(questions["irrelevant_ids"], answers, strict=True)
    ]
    sizes = np.array([len(names) if known else 0 for names, known in zip(negatives, answers, strict=True)])
    room = int(np.quantile(sizes, 1 - share, method="lower")) if len(sizes) else 0
    drawn_per_row = min(num_candidates - 1, max(room, 1))
    if drawn_per_row < 1 or not (sizes >= drawn_per_row).any():
        raise ValueError(
            f"num_candidates: expected at least 2, an answer and a negative, got {num_candidates} and rows with "
            f"{sizes.max(initial=0)} negatives. Set `negatives: mined`, or give rows with `irrelevant_ids`."
        )
    generator = np.random.default_rng(seed)
    rows = np.flatnonzero(sizes >= drawn_per_row)
    candidates = []
    for row in rows.tolist():
        drawn = sorted(generator.choice(len(negatives[row]), drawn_per_row, replace=False).tolist())
        candidates.append([questions[row]["document_ids"][0], *(negatives[row][place] for place in drawn)])
    chosen = questions.select(rows).remove_columns(["document_ids", "irrelevant_ids"])
    chosen = chosen.add_column("document_ids", candidates)
    return chosen.add_column("positive_ids", [sorted(answers[row]) for row in rows.tolist()]), drawn_per_row + 1


def add_positives(rows: Dataset) -> Dataset:
    """Return candidate rows with `positive_ids`: the first candidates of all rows of the same question."""
    if "positive_ids" in rows.column_names:
        return rows
    first = rows.select_columns([name for name in ("query", "english") if name in rows.column_names])
    first = first.add_column("document_ids", [ids[:1] for ids in rows["document_ids"]])
    return rows.add_column("positive_ids", [sorted(names) for names in known_answers(first)])


def known_answers(questions: Dataset) -> list[set[str]]:
    """Return for each row all passages that answer its question: rows with one text share their answers."""
    texts = questions["english"][:] if "english" in questions.column_names else [None] * len(questions)
    keys = [text or query for text, query in zip(texts, questions["query"][:], strict=True)]
    answers: dict[str, set[str]] = {}
    for key, ids in zip(keys, questions["document_ids"][:], strict=True):
        answers.setdefault(key, set()).update(ids or ())
    return [answers[key] for key in keys]


def score_candidates(rows: Dataset, teacher: DrDecrModel, passages: Tokens, batch_size: int = 64) -> Dataset:
    """Let the teacher score the candidates that rows have.

    Args:
        rows: with `english` and `document_ids`, as many in each.
        teacher: reads the English questions.
        passages: its tokens of the candidates.
        batch_size: rows at a time.

    Returns:
        The rows with `teacher_scores` and `teacher_query_tokens`; the order of the candidates stays.
    """
    english = list(dict.fromkeys(rows["english"]))
    tokens = dict(zip(english, teacher.encode_queries(english, batch_size=batch_size), strict=True))
    names = rows["document_ids"][:]
    found = _scored([tokens[text] for text in rows["english"]], names, passages, batch_size, best_first=False)
    return _with_columns(rows.remove_columns("document_ids"), found)


def _ranked_negatives(
    answers: dict[str, set[str]], reader: DrDecrModel, passages: Tokens, depth: int, batch_size: int = 64
) -> dict[str, tuple[list[str], dict[str, float], int]]:
    """Return for each text its `depth` best passages that are no answer, their and the answers' scores, its query tokens."""
    index = _index(passages, reader)
    texts = list(answers)
    tokens = reader.encode_queries(texts)
    place = {name: column for column, name in enumerate(index.document_ids)}
    ranked = {}
    for start in range(0, len(texts), batch_size):
        queries = tokens[start : start + batch_size]
        batch = zip(texts[start : start + batch_size], queries, index.scores(queries), strict=True)
        for text, query, scores in batch:
            # Not topk, which leaves the order of equal scores to chance.
            order = scores.sort(descending=True, stable=True).indices[: depth + len(answers[text])].tolist()
            best = [name for name in map(index.document_ids.__getitem__, order) if name not in answers[text]][:depth]
            own_scores = {name: scores[place[name]].item() for name in (*answers[text], *best)}
            ranked[text] = (best, own_scores, len(query))
    return ranked


def _index(passages: Tokens, reader: DrDecrModel) -> ExactIndex:
    names = list(passages.rows)
    return ExactIndex(names, [passages.tokens(name) for name in names], dtype=reader.dtype)


def _with_columns(questions: Dataset, rows: list[tuple[list[str], list[float], int]]) -> Dataset:
    columns = zip(*rows, strict=True)
    for name, values in zip(("document_ids", "teacher_scores", "teacher_query_tokens"), columns, strict=True):
        questions = questions.add_column(name, list(values))
    return questions


def split_by_negatives(rows: Dataset, negatives: str | None) -> tuple[Dataset, Dataset]:
    """Return the rows that are trained on with the negatives that they bring, and those whose negatives are mined.

    Args:
        rows: with `irrelevant_ids`, empty where a row brings none.
        negatives: `given` (the first alone), `mined` (all rows are mined), `both`; None (default): what a row brings, and
            mined ones for the others.
    """
    brings = np.array([bool(ids) for ids in rows["irrelevant_ids"]], dtype=bool)
    given = np.zeros_like(brings) if negatives == "mined" else brings
    mined = {"given": np.zeros_like(brings), None: ~brings}.get(negatives, np.ones_like(brings))
    return rows.select(np.flatnonzero(given)), rows.select(np.flatnonzero(mined))
