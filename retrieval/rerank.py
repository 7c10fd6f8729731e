"""Runs of any system, read again by MaxSim."""

from collections.abc import Iterable, Mapping

from tqdm.auto import tqdm

from drdecr.modeling_drdecr import DrDecrModel

from .passages import Document, Splitter


def rerank_run(
    model: DrDecrModel,
    run: Mapping[str, Mapping[str, float]],
    queries: Mapping[str, str],
    documents: Iterable[Document],
    top_k: int = 100,
    splitting: Splitter | None = None,
) -> dict[str, dict[str, float]]:
    """Score each query's own documents by MaxSim, a document by its best passage.

    Args:
        model: with its processor.
        run: `{query_id: {document_id: score}}`; a query's best `top_k` are read.
        queries: `{query_id: text}`, all of the run's.
        documents: the collection; what the run does not name is not encoded.
        top_k: documents a query.
        splitting: of documents longer than the model reads (default `Splitter()`).

    Returns:
        The run with the new scores.

    Raises:
        ValueError: for a query or a document that is missing, or no document a query.
    """
    if top_k < 1:
        raise ValueError(f"top_k: expected at least 1, got {top_k}. Leave it out for the default.")
    unknown = next((name for name in run if name not in queries), None)
    if unknown is not None:
        raise ValueError(f"query {unknown!r} of the run is not among the {len(queries)} questions. Give all of them.")
    kept = {query_id: _best(scores, top_k) for query_id, scores in run.items()}
    wanted = {name for names in kept.values() for name in names}
    splitting, owners, texts = splitting or Splitter(), [], []
    for document in documents:
        if document.document_id in wanted:
            passages = splitting.passages(document, model.processor)
            owners += [document.document_id] * len(passages)
            texts += [passage.reads for passage in passages]
    missing = next(iter(sorted(wanted - set(owners))), None)
    if missing is not None:
        raise ValueError(f"document {missing!r} of the run is not in the collection. Give the one that was searched.")
    rows: dict[str, list[int]] = {}
    for row, owner in enumerate(owners):
        rows.setdefault(owner, []).append(row)
    embeddings = model.encode_documents(texts) if texts else []
    questions = dict(zip(kept, model.encode_queries([queries[name] for name in kept]), strict=True))
    reranked: dict[str, dict[str, float]] = {}
    for query_id, names in tqdm(kept.items(), desc="scoring", unit="query", disable=None):
        reranked[query_id] = {}
        if names:
            own = [row for name in names for row in rows[name]]
            scores = model.score([questions[query_id]], [embeddings[row] for row in own])[0].tolist()
            for row, score in zip(own, scores, strict=True):
                reranked[query_id][owners[row]] = max(score, reranked[query_id].get(owners[row], score))
    return reranked


def _best(scores: Mapping[str, float], top_k: int) -> list[str]:
    # Of equal scores the higher id first, as trec_eval has it.
    return sorted(scores, key=lambda name: (scores[name], name), reverse=True)[:top_k]
