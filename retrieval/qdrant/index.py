"""Passages in a Qdrant collection: a cluster for more than one machine holds, or a local folder (docs/qdrant.md).

Each passage has two vectors: its tokens, compared by MaxSim and in no graph, and one vector of MUVERA in a graph. A search takes
candidates by the one and ranks them by the other, in one request.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from drdecr.retrieval.protocol import Filter, Hits, check_batch, check_count, check_ids, check_search

from .muvera import FixedDimensionalEncoding
from .points import ID_KEY, PAYLOAD_KEY, calls_of, filter_of, point_id

VECTOR, CANDIDATE_VECTOR = "tokens", "muvera"
"""Names of a point's vectors. A passage without a token that scores has neither, and no search returns it."""
PASSAGES_PER_CALL, QUERIES_PER_CALL, IDS_PER_CALL = 64, 64, 4096


class QdrantIndex:
    """A Qdrant collection as a `WritablePassageIndex`. What is added is searched at once.

    Args:
        client: `qdrant_client.QdrantClient` of a cluster (`url=...`), of a local folder (`path=...`: one process at a
            time, all passages in memory) or `":memory:"`. Whoever opened it closes it.
        collection: its name.
        dim: width of the tokens.
        encoding: of the vectors for candidates; the same for all who write and search.
        num_candidates: passages that are ranked by MaxSim (default 500); None scores all of them.
    """

    def __init__(
        self,
        client: Any,
        collection: str,
        dim: int,
        encoding: FixedDimensionalEncoding | None = None,
        num_candidates: int | None = 500,
    ) -> None:
        check_count("dim", dim)
        if num_candidates is not None:
            check_count("num_candidates", num_candidates)
        self.client, self.collection, self.dim = client, collection, dim
        # 2,560 numbers: a graph of the paper's 10,240 would weigh more than the tokens in 8 bit.
        self.encoding = encoding or FixedDimensionalEncoding(dim, repetitions=20, hyperplanes=3, projected_dim=16)
        self.num_candidates = num_candidates

    @classmethod
    def create(
        cls, client: Any, collection: str, dim: int, shards: int = 1, replicas: int = 1, **options: Any
    ) -> "QdrantIndex":
        """Make a collection.

        Args:
            client: as of the class.
            collection: its name.
            dim: width of the tokens.
            shards: parts that the passages are spread over: a multiple of the nodes.
            replicas: nodes that hold each part: 2 survives the loss of a node.
            options: `encoding` and `num_candidates` of the class.

        Raises:
            ImportError: without `qdrant-client`.
            ValueError: if there is such a collection.
        """
        models, index = _qdrant_models(), cls(client, collection, dim, **options)
        if client.collection_exists(collection):
            raise ValueError(f"collection {collection!r} exists already. Choose another name, or open it.")
        tokens = models.VectorParams(
            size=dim,
            distance=models.Distance.DOT,
            multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
            hnsw_config=models.HnswConfigDiff(m=0),  # ranks candidates alone: a graph of it would never be used
            datatype=models.Datatype.FLOAT16,
            on_disk=True,
        )
        one = models.VectorParams(
            size=index.encoding.width,
            distance=models.Distance.DOT,
            datatype=models.Datatype.FLOAT16,
            on_disk=True,
            quantization_config=models.ScalarQuantization(
                scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
            ),
        )
        client.create_collection(
            collection,
            vectors_config={VECTOR: tokens, CANDIDATE_VECTOR: one},
            shard_number=shards,
            replication_factor=replicas,
            write_consistency_factor=replicas // 2 + 1,
            on_disk_payload=True,
        )
        return index

    def __len__(self) -> int:
        return self.client.count(self.collection, exact=True).count

    def passage_ids(self) -> list[str]:
        """Return the ids of all passages, in no order that means anything."""
        ids: list[str] = []
        offset = None
        while True:
            records, offset = self.client.scroll(
                self.collection, limit=IDS_PER_CALL, offset=offset, with_payload=[ID_KEY]
            )
            ids += [record.payload[ID_KEY] for record in records]
            if offset is None:
                return ids

    def add(
        self,
        passage_ids: Sequence[str],
        embeddings: Sequence[Tensor],
        payloads: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Add passages; one whose id is in the collection already takes its place."""
        check_batch(passage_ids, embeddings, payloads, self.dim)
        payloads = payloads or [{}] * len(passage_ids)
        for call in calls_of(embeddings, PASSAGES_PER_CALL):
            points = self._points(passage_ids[call], embeddings[call], payloads[call])
            self.client.upsert(self.collection, points, wait=True)

    def _points(
        self, passage_ids: Sequence[str], embeddings: Sequence[Tensor], payloads: Sequence[Mapping[str, Any]]
    ) -> list[Any]:
        models = _qdrant_models()
        rows = zip(passage_ids, embeddings, self.encoding.documents(list(embeddings)), payloads, strict=True)
        return [
            models.PointStruct(
                id=point_id(name),
                vector={VECTOR: tokens.tolist(), CANDIDATE_VECTOR: whole.tolist()} if len(tokens) else {},
                payload={ID_KEY: name, PAYLOAD_KEY: dict(payload)},
            )
            for name, tokens, whole, payload in rows
        ]

    def delete(self, passage_ids: Sequence[str] | None = None, where: Filter | None = None) -> int:
        """Delete passages by id or by payload (or by both) and return how many."""
        if passage_ids is None and not where:
            raise ValueError(
                f"delete: expected ids or a filter, got neither. To delete all, remove collection {self.collection!r}."
            )
        if passage_ids is not None:
            check_ids(passage_ids)
        models, before = _qdrant_models(), len(self)
        conditions: list[Any] = [] if where is None else [filter_of(where, models)]
        if passage_ids is not None:
            conditions.append(models.HasIdCondition(has_id=[point_id(name) for name in passage_ids]))
        selector = models.FilterSelector(filter=models.Filter(must=conditions))
        self.client.delete(self.collection, selector, wait=True)
        return before - len(self)

    def payloads(self, passage_ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return what was added with passages; `ValueError` for one that is not there."""
        check_ids(passage_ids)
        records = self.client.retrieve(self.collection, [point_id(name) for name in passage_ids], with_payload=True)
        by_id = {record.payload[ID_KEY]: record.payload[PAYLOAD_KEY] for record in records}
        unknown = next((name for name in passage_ids if name not in by_id), None)
        if unknown is not None:
            raise ValueError(
                f"{unknown!r} is none of the {len(self)} passages of collection {self.collection!r}. Look at the id."
            )
        return [by_id[name] for name in passage_ids]

    def commit(self) -> None:
        """Do nothing: Qdrant has answered for every write."""

    def search(self, query_embeddings: list[Tensor], top_k: int = 10, where: Filter | None = None) -> Hits:
        """Find passages by candidates and MaxSim, 64 queries in one request; one without a token finds nothing."""
        check_search(query_embeddings, top_k, 1, self.dim)
        numbers = [number for number, tokens in enumerate(query_embeddings) if len(tokens)]
        selected = filter_of(where, _qdrant_models())
        hits = Hits([[] for _ in query_embeddings], [[] for _ in query_embeddings])
        for call in calls_of([query_embeddings[number] for number in numbers], QUERIES_PER_CALL):
            requests = [self._request(query_embeddings[number], top_k, selected) for number in numbers[call]]
            answers = self.client.query_batch_points(self.collection, requests)
            for number, answer in zip(numbers[call], answers, strict=True):
                hits.document_ids[number] = [point.payload[ID_KEY] for point in answer.points]
                hits.scores[number] = [point.score for point in answer.points]
        return hits

    def _request(self, tokens: Tensor, top_k: int, selected: Any) -> Any:
        models = _qdrant_models()
        exact = self.num_candidates is None
        prefetch = models.Prefetch(
            query=self.encoding.queries([tokens])[0].tolist(),
            using=CANDIDATE_VECTOR,
            filter=selected,
            limit=max(self.num_candidates or 1, top_k),
        )
        return models.QueryRequest(
            query=tokens.tolist(),
            using=VECTOR,
            prefetch=None if exact else prefetch,
            filter=selected,
            params=models.SearchParams(exact=True) if exact else None,
            limit=top_k,
            with_payload=[ID_KEY],
        )


def _qdrant_models() -> Any:
    try:
        from qdrant_client import models
    except ImportError as error:
        raise ImportError("QdrantIndex needs qdrant-client: `pip install drdecr[qdrant]`.") from error
    return models
