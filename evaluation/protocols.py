"""What each benchmark reports: the measures, the split and the depth that make a figure comparable with published ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drdecr.data.schema import QuestionSet
from drdecr.data.teacher.negatives import searchable

from .answer_recall import answer_recall_at
from .metrics import DEFAULT_MEASURES, PerQuery, Run, per_query_scores, ranked
from .recall_at_k_tokens.xor_retrieve import score_rankings

TOKEN_BUDGETS = {"R@2kt": 2000, "R@5kt": 5000}
ANSWER_RECALL = "AnswerRecall@"


@dataclass(frozen=True)
class Protocol:
    """One benchmark's way to measure.

    Attributes:
        name: under which a result says it.
        measures: the one that rankings go by first. `R@2kt` and `R@5kt` are XOR-Retrieve's, `AnswerRecall@k` the share of
            questions with an answer in the first k passages, all others in the spelling of ir_measures.
        published_split: of the questions that published figures are of; what was asked may be another.
        depth: passages a question that are searched.
        leaves_out_own_id: whether a passage with the query's id is taken out of the ranking.
    """

    name: str
    measures: tuple[str, ...]
    published_split: str
    depth: int = 100
    leaves_out_own_id: bool = False


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("xor_retrieve", ("R@2kt", "R@5kt"), "dev v1.1"),  # Asai et al. 2021
        # mContriever (Izacard et al. 2022) and BGE-M3 (Chen et al. 2024): 6,619 questions over BEIR's nq.
        Protocol("mkqa", ("AnswerRecall@20", "AnswerRecall@100"), "all, without unanswerable, yes/no and long answers"),
        Protocol("miracl", ("nDCG@10", "R@100"), "dev"),  # Zhang et al. 2023
        Protocol("mr_tydi", ("RR@100", "R@100"), "test"),  # Zhang et al. 2021
        Protocol(
            "neuclir", ("nDCG@20", "AP", "R@100", "R@1000"), "the year's topics; test for HC4", depth=1000
        ),  # Lawrie et al. 2023
        # Thakur et al. 2021; its evaluation drops identical ids (ArguAna and Quora ask with documents).
        Protocol("beir", ("nDCG@10", "R@100"), "test; dev for MS MARCO", leaves_out_own_id=True),
        Protocol("xquad", ("RR@10", "R@1", "R@5", "R@10"), "all; passages of SQuAD v1.1 dev"),
        # Ogundepo et al. 2023: the first 10 passages that hold an answer, as DPR counts; their scripts also look at 20 and 100.
        Protocol("afriqa", ("AnswerRecall@10", "AnswerRecall@20", "AnswerRecall@100", "R@10", "RR@10"), "test"),
        Protocol("default", DEFAULT_MEASURES, "as given"),
        Protocol("answers", ("R@2kt", "R@5kt"), "as given"),
    )
}

OF_FORMATS = {
    "xor_retrieve": "xor_retrieve",
    "mkqa_retrieval": "mkqa",
    "miracl": "miracl",
    "mr_tydi": "mr_tydi",
    "beir": "beir",
    "squad": "xquad",
    "afriqa": "afriqa",
}

OF_IR_DATASETS = {"neuclir": "neuclir", "hc4": "neuclir", "beir": "beir"}
"""Protocols by the first part of a name in ir_datasets, such as `hc4/ru/test`."""


def protocol_of(entry: Mapping[str, Any], found: QuestionSet, name: str | None = None) -> Protocol:
    """Return how a set is measured.

    Args:
        entry: that it was read from; its format says the protocol, and of `ir_datasets` the data set's name.
        found: the set. One of another format is measured by `default`, or by `answers` where no passage is labelled.
        name: asked for instead.

    Raises:
        ValueError: for an unknown name, or one whose measures need labels or answers that the set does not have.
    """
    if name is not None and name not in PROTOCOLS:
        raise ValueError(f"protocol: expected one of {', '.join(PROTOCOLS)}, got {name!r}.")
    by_format = OF_FORMATS.get(entry.get("format", ""))
    if entry.get("format") == "ir_datasets":
        by_format = OF_IR_DATASETS.get(str(entry.get("dataset", "")).split("/")[0])
    chosen = PROTOCOLS[name or by_format or ("default" if found.qrels else "answers")]
    if any(map(_is_of_answers, chosen.measures)) and not found.answers:
        raise ValueError(f"{found.name}: the protocol {chosen.name!r} looks for answers, and the set has none.")
    if not all(map(_is_of_answers, chosen.measures)) and not found.qrels:
        raise ValueError(f"{found.name}: the protocol {chosen.name!r} needs labelled passages, and the set has none.")
    return chosen


def check_answers(sets: Sequence[QuestionSet], protocols: Sequence[Protocol]) -> None:
    """Check, before anything is searched, that each protocol that looks for answers has a question with one to be found.

    Args:
        sets: the questions.
        protocols: how each set is measured.

    Raises:
        ValueError: where all answers of a protocol's sets are yes, no or blank: none of their questions is measured.
    """
    for protocol in dict.fromkeys(protocols):
        own = [found for found, how in zip(sets, protocols, strict=True) if how == protocol]
        if not any(map(_is_of_answers, protocol.measures)):
            continue
        if not any(searchable(answers) for found in own for answers in found.answers.values()):
            raise ValueError(
                f"{', '.join(found.name for found in own)}: the protocol {protocol.name!r} looks for answers in passages, and "
                "every answer is yes, no or blank, so that no question can be measured. Give questions with other answers."
            )


def score_by_protocol(found: QuestionSet, run: Run, protocol: Protocol) -> tuple[PerQuery, dict[str, Any]]:
    """Score a set's run.

    Args:
        found: the questions.
        run: what was found, at least `protocol.depth` passages a question where there are so many.
        protocol: how it is measured.

    Returns:
        `measure -> query_id -> score`, and what one must know to read them.
    """
    run = trimmed(run, protocol)
    facts: dict[str, Any] = {
        "protocol": protocol.name,
        "published_split": protocol.published_split,
        "depth": protocol.depth,
    }
    if protocol.leaves_out_own_id:
        facts["relevant_with_query_id"] = sum(judged.get(query_id, 0) > 0 for query_id, judged in found.qrels.items())
    if protocol.measures[0] in TOKEN_BUDGETS:
        recall = score_rankings(_texts(found, run), found.answers, [TOKEN_BUDGETS[name] for name in protocol.measures])
        return recall.scores, {**facts, **recall.notes()}
    scores: PerQuery = {}
    cutoffs = [int(name.removeprefix(ANSWER_RECALL)) for name in protocol.measures if name.startswith(ANSWER_RECALL)]
    if cutoffs:
        by_cutoff = answer_recall_at(_texts(found, run), found.answers, cutoffs)
        scores |= {f"{ANSWER_RECALL}{cutoff}": own for cutoff, own in by_cutoff.items()}
    of_labels = [name for name in protocol.measures if not name.startswith(ANSWER_RECALL)]
    if of_labels:
        judged = found.qrels
        own = {query_id: run[query_id] for query_id in judged if query_id in run}
        scores |= per_query_scores(own, judged, of_labels)
    return scores, facts


def trimmed(run: Run, protocol: Protocol) -> dict[str, dict[str, float]]:
    """Return a run as the protocol looks at it: without the query's own id where it says so, and no deeper than it says."""
    kept = {}
    for query_id, hits in run.items():
        names = [name for name in ranked(hits) if not (protocol.leaves_out_own_id and name == query_id)]
        kept[query_id] = {name: hits[name] for name in names[: protocol.depth]}
    return kept


def _texts(questions: QuestionSet, run: Run) -> dict[str, list[str]]:
    rankings = {query_id: ranked(run[query_id]) for query_id in questions.answers if query_id in run}
    unknown = next((name for names in rankings.values() for name in names if name not in questions.passages), None)
    if unknown is not None:
        raise ValueError(
            f"{questions.name}: answers are looked for in passages, and {unknown!r} is not among the "
            f"{len(questions.passages)} passages of the set. Give the collection that was searched."
        )
    return {query_id: [questions.passages[name] for name in names] for query_id, names in rankings.items()}


def _is_of_answers(measure: str) -> bool:
    return measure in TOKEN_BUDGETS or measure.startswith(ANSWER_RECALL)
