"""Runs of any system, read again by MaxSim."""

from collections.abc import Iterable, Mapping

from tqdm.auto import tqdm

from drdecr.modeling_drdecr import DrDecrModel

from .passages import Document, Splitter
from .protocol import check_count


def rerank_run(
    model: DrDecrModel,
    run: Mapping[str, Mapping[str, float]],
    queries: Mapping[str, str],
    documents: Iterable[Document],
    top_k: int = 100,
    splitter: Splitter | None = None,
) -> dict[str, dict[str, float]]:
    """Score each query's own documents by MaxSim, a document by its best passage.

    Args:
        model: with its processor.
        run: `{query_id: {document_id: score}}`; a query's best `top_k` are read.
        queries: `{query_id: text}`, all of the run's.
        documents: the collection; what the run does not name is not encoded.
        top_k: documents a query.
        splitter: of documents longer than the model reads (default `Splitter()`).

    Returns:
        The run with the new scores.

    Raises:
        ValueError: for a query or a document that is missing, or no document a query.
    """
    check_count("top_k", top_k)
    unknown = next((name for name in run if name not in queries), None)
    if unknown is not None:
        raise ValueError(f"query {unknown!r} of the run is not among the {len(queries)} questions. Give all of them.")
    best = {query_id: _best(scores, top_k) for query_id, scores in run.items()}
    named = {name for names in best.values() for name in names}
    splitter, owners, texts = splitter or Splitter(), [], []
    for document in documents:
        if document.document_id in named:
            passages = splitter.passages(document, model.processor)
            owners += [document.document_id] * len(passages)
            texts += [passage.reads for passage in passages]
    missing = next(iter(sorted(named - set(owners))), None)
    if missing is not None:
        raise ValueError(f"document {missing!r} of the run is not in the collection. Give the one that was searched.")
    rows: dict[str, list[int]] = {}
    for row, owner in enumerate(owners):
        rows.setdefault(owner, []).append(row)
    embeddings = model.encode_documents(texts) if texts else []
    questions = dict(zip(best, model.encode_queries([queries[name] for name in best]), strict=True))
    reranked: dict[str, dict[str, float]] = {}
    for query_id, names in tqdm(best.items(), desc="scoring", unit="query", disable=None):
        reranked[query_id] = {}
        if names:
            candidates = [row for name in names for row in rows[name]]
            scores = model.score([questions[query_id]], [embeddings[row] for row in candidates])[0].tolist()
            for row, score in zip(candidates, scores, strict=True):
                reranked[query_id][owners[row]] = max(score, reranked[query_id].get(owners[row], score))
    return reranked


def _best(scores: Mapping[str, float], top_k: int) -> list[str]:
    # Of equal scores the higher id first, as trec_eval has it.
    return sorted(scores, key=lambda name: (scores[name], name), reverse=True)[:top_k]
