"""Does a system rank documents by their language? Measured where each right document exists in several languages.

Questions in any language are asked of one collection. Of two documents that say the same in two languages neither should
stand above the other; what is found instead is told by pairs of question and document language, and in one number: Kendall's
W of the versions' ranks, 0 where no language is preferred and 1 where every question orders the languages alike. Friedman's
test goes with it: it is the Kruskal-Wallis test of PEER for ranks that come in blocks, here one block a question.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from drdecr.data.files import check_survives_json, read_json_object, write_json_exactly
from drdecr.evaluation.failures import ranked
from drdecr.evaluation.metrics import Run
from drdecr.evaluation.results import AVERAGE, Score, question_key
from drdecr.evaluation.significance import DEFAULT_RESAMPLES, Floats, bootstrap_interval

from .peer import by_question, friedman_p_value, kendall_w_interval, peer

CELLS = ("rank", "first", "found", "share", "score", "alone")
"""What is told of a pair of languages: rank of the version, share of questions in which it stands above all other versions,
share in which it is among the first k, share of the first k places that its language holds, its score, and its reciprocal rank
if the answer existed in its language alone (the other versions taken out of the ranking; 0 behind the first k)."""


@dataclass(frozen=True)
class Bias:
    """How the questions of one language order the languages of documents.

    Attributes:
        kendall_w: from 0, no order, to 1, always the same one; with its bootstrap interval.
        p_value: of Friedman's test that all languages have one expected rank.
        own: share of pairs of versions, one in the question's own language, in which that one stands above; 0.5 is no
            preference. None where no document is in that language, and for the average.
        reciprocal_rank: of the best ranked version, whichever its language, cut at the first `top_k`: what calibration must
            not cost.
        abroad: reciprocal rank of an answer that exists in one language alone, another than the question's (`alone` of `CELLS`):
            the mean over these languages. What a collection of unlike documents in many languages asks for.
        peer: mean PEER (`peer`) over right documents; None where each language has one: that says nothing.
        peer_others: mean PEER over the other documents.
    """

    kendall_w: Score
    p_value: float
    own: Score | None
    reciprocal_rank: Score
    abroad: Score
    peer: Score | None
    peer_others: Score


@dataclass(frozen=True)
class BiasReport:
    """What `measure_bias` found.

    Attributes:
        cells: `name of CELLS -> question language -> document language -> Score`; question language "avg" for all questions.
        bias: `question language or "avg" -> Bias`.
        metadata: top_k, depth, counts, seed, and what the caller adds; what JSON holds without loss.
    """

    cells: dict[str, dict[str, dict[str, Score]]]
    bias: dict[str, Bias]
    metadata: dict[str, Any]

    def __post_init__(self) -> None:
        check_survives_json("metadata", self.metadata)

    def to_json(self, path: str | Path) -> None:
        """Write the file whole or not at all."""
        write_json_exactly(path, asdict(self))

    @classmethod
    def from_json(cls, path: str | Path) -> "BiasReport":
        """Read what `to_json` wrote; `ValueError` for a file that is damaged or holds something else."""
        content = read_json_object(path, "cells", "bias", "metadata")
        try:
            cells = {
                name: {asked: {found: Score(**cell) for found, cell in row.items()} for asked, row in rows.items()}
                for name, rows in content["cells"].items()
            }
            bias = {asked: _bias(row) for asked, row in content["bias"].items()}
        except (TypeError, AttributeError) as error:
            raise ValueError(f"{path} holds no language bias: {error}. Measure again.") from error
        return cls(cells, bias, content["metadata"])


def _bias(row: Mapping[str, Any]) -> Bias:
    scores = {name: None if row[name] is None else Score(**row[name]) for name in row if name != "p_value"}
    return Bias(p_value=row["p_value"], **scores)  # type: ignore[arg-type]


def measure_bias(
    run: Run,
    versions: Mapping[str, Sequence[str]],
    languages: Mapping[str, str],
    document_languages: Mapping[str, str],
    *,
    top_k: int = 10,
    depth: int = 1000,
    peer_cutoff: int = 20,
    seed: int = 0,
    resamples: int = DEFAULT_RESAMPLES,
    notes: Mapping[str, Any] | None = None,
) -> BiasReport:
    """Measure how the language of a document moves its rank.

    Args:
        run: `query_id -> document_id -> score`, documents of all languages in one ranking.
        versions: `query_id -> ids of right documents`, at least one in each language of `document_languages`; of several in
            one language the best ranked counts. Questions that lack a language are left out and counted.
        languages: `query_id -> language`.
        document_languages: `document_id -> language`, the whole collection.
        top_k: of `found` and `share` (default 10).
        depth: documents a question that the run holds (default 1,000). A version that is not among them counts as standing
            right behind, and without a score: `rank` is then a lower bound (metadata: `not_found`).
        peer_cutoff: of PEER (default 20).
        seed: of the bootstrap over questions; in the average, one that is asked in several languages (`question_key`) is drawn
            once, with its mean.
        resamples: of the bootstrap.
        notes: more metadata.

    Raises:
        ValueError: for fewer than two languages of documents, a document without one, no question with all versions, or a
            `depth` below `top_k`, with which what is not found would count as found.
    """
    if depth < top_k:
        raise ValueError(f"language bias: expected a depth of at least top_k, got {depth} and {top_k}. Raise --depth.")
    names = sorted(set(document_languages.values()))
    whole = _in_every_language(versions, document_languages, names)
    rows = {
        query_id: _Row.of(run.get(query_id, {}), found, names, document_languages, top_k, depth)
        for query_id, found in whole.items()
    }
    several = any(len(ids) > 1 for found in whole.values() for ids in found.values())
    right: dict[str, float] = {}
    others: dict[str, float] = {}
    for name in whole:  # one at a time: a level names the whole collection
        levels = {name: dict.fromkeys(document_languages, 0) | dict.fromkeys(versions[name], 1)}
        own_run = {name: run.get(name, {})}
        others |= peer(own_run, levels, document_languages, {0: 1.0}, peer_cutoff)
        if several:
            right |= peer(own_run, levels, document_languages, {1: 1.0}, peer_cutoff)
    groups = {
        code: [name for name in whole if languages[name] == code] for code in sorted({languages[n] for n in whole})
    }
    cells: dict[str, dict[str, dict[str, Score]]] = {name: {} for name in CELLS}
    bias: dict[str, Bias] = {}
    for code, query_ids in {**groups, AVERAGE: list(whole)}.items():
        own = [rows[name] for name in query_ids]
        keys = [question_key(name, languages[name]) if code == AVERAGE else name for name in query_ids]

        def scored(values: Any, keys: list[str] = keys) -> Score:
            return _score(by_question(np.asarray(values, dtype=np.float64), keys), len(keys), resamples, seed)

        for name in CELLS:
            columns = np.array([getattr(row, name) for row in own], dtype=np.float64).T  # (languages, questions)
            cells[name][code] = {language: scored(column) for language, column in zip(names, columns, strict=True)}
        orders = np.array([row.order for row in own])
        bias[code] = Bias(
            Score(*kendall_w_interval(orders, resamples, seed, keys), n=len(own)),
            friedman_p_value(rankdata(by_question(orders, keys), axis=1)),
            scored(_own_above(orders, names.index(code))) if code in names else None,
            scored([1 / row.rank.min() if row.rank.min() <= top_k else 0.0 for row in own]),
            scored(
                [
                    row.alone[[name != languages[query_id] for name in names]].mean()
                    for query_id, row in zip(query_ids, own, strict=True)
                ]
            ),
            scored([right[name] for name in query_ids]) if right else None,
            scored([others[name] for name in query_ids]),
        )
    about = {
        "top_k": top_k,
        "depth": depth,
        "peer_cutoff": peer_cutoff,
        "seed": seed,
        "resamples": resamples,
        "documents": {name: list(document_languages.values()).count(name) for name in names},
        "left_out": len(versions) - len(whole),
        "not_found": int(sum(np.isnan(row.score).sum() for row in rows.values())),
    }
    return BiasReport(cells, bias, {**(notes or {}), **about})


def _in_every_language(
    versions: Mapping[str, Sequence[str]], document_languages: Mapping[str, str], names: Sequence[str]
) -> dict[str, dict[str, list[str]]]:
    """Return `{query_id: {language: right documents}}` of the questions that have one in each language."""
    if len(names) < 2:
        raise ValueError(
            f"language bias: expected documents in two languages or more, got {', '.join(names) or 'none'}."
        )
    by_question = {query_id: _by_language(ids, document_languages) for query_id, ids in versions.items()}
    whole = {query_id: found for query_id, found in by_question.items() if len(found) == len(names)}
    if not whole:
        raise ValueError(
            f"language bias: expected questions with a right document in each of {', '.join(names)}, got none in all. List "
            "all versions as `document_ids`, or leave languages out with `--languages`."
        )
    return whole


@dataclass(frozen=True)
class _Row:
    """One question's figures, each `(languages,)`; `order` are the ranks of its versions among themselves, ties shared."""

    rank: Floats
    first: Floats
    found: Floats
    share: Floats
    score: Floats
    alone: Floats
    order: Floats

    @classmethod
    def of(
        cls,
        hits: Mapping[str, float],
        versions: Mapping[str, Sequence[str]],
        names: Sequence[str],
        document_languages: Mapping[str, str],
        top_k: int,
        depth: int,
    ) -> "_Row":
        ids = ranked(hits)[:depth]
        places = {name: place for place, name in enumerate(ids, start=1)}
        best = {code: min(versions[code], key=lambda name: places.get(name, depth + 1)) for code in names}
        rank = np.array([places.get(best[code], depth + 1) for code in names], dtype=np.float64)
        score = np.array([hits[best[code]] if best[code] in places else np.nan for code in names])
        right = {name for own in versions.values() for name in own}
        others = np.cumsum([name not in right for name in ids] or [False])  # of other documents, down to each place
        alone = np.array([1 / (1 + others[places[best[code]] - 1]) if best[code] in places else 0.0 for code in names])
        alone[alone < 1 / top_k] = 0.0
        order = rankdata(rank)
        ahead = rank == rank.min()
        held = [document_languages[name] for name in ids[:top_k]]
        share = np.array([held.count(code) / max(len(held), 1) for code in names])
        return cls(rank, ahead / ahead.sum(), (rank <= top_k).astype(np.float64), share, score, alone, order)


def _own_above(orders: Floats, own: int) -> Floats:
    """Return for each question the share of other versions that stand below its own language's; a tie is a half."""
    others = np.delete(orders, own, axis=1)
    mine = orders[:, own : own + 1]
    return ((mine < others) + 0.5 * (mine == others)).mean(axis=1)


def _score(values: Floats, n: int, resamples: int, seed: int) -> Score:
    known = values[np.isfinite(values)]
    if len(known) == 0:  # no version was found at all
        return Score(0.0, 0.0, 0.0, 0)
    return Score(*bootstrap_interval(known, resamples, seed), n=n if len(known) == len(values) else len(known))


def _by_language(document_ids: Sequence[str], document_languages: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in document_ids:
        if name not in document_languages:
            raise ValueError(f"language bias: right document {name!r} is not in the collection, or has no language.")
        found.setdefault(document_languages[name], []).append(name)
    return found
