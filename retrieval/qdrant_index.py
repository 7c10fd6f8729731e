"""A collection of a Qdrant cluster (`qdrant-client`), for more than one machine holds; docs/qdrant.md has the runbook.

Each passage has two vectors: its tokens, compared by MaxSim and in no graph, and one vector of MUVERA in a graph. A search takes
candidates by the one and ranks them by the other, in one request.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .exact import Hits
from .muvera import FixedDimensionalEncoding
from .protocol import Where, check_batch
from .qdrant_common import ID_KEY, PAYLOAD_KEY, VECTOR, filter_of, missing_extra, point_id, point_payload
from .stored import check_search

CANDIDATE_VECTOR = "muvera"
PASSAGES_A_CALL = 64


class QdrantIndex:
    """A collection as a `PassageIndex`.

    Args:
        client: a `qdrant_client.QdrantClient`, of a cluster or (for tests and notebooks) `QdrantClient(":memory:")`.
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
        models, index = _models(), cls(client, collection, dim, **options)
        if client.collection_exists(collection):
            raise ValueError(f"collection {collection!r} is there already. Choose another name, or open it.")
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

    def add(
        self,
        passage_ids: Sequence[str],
        embeddings: Sequence[Tensor],
        payloads: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Add passages; one whose id is there already takes its place."""
        models = _models()
        check_batch(passage_ids, embeddings, payloads, self.dim)
        if not passage_ids:
            return
        one = self.encoding.documents(list(embeddings))
        rows = zip(passage_ids, embeddings, one, payloads or [{}] * len(passage_ids), strict=True)
        points = [
            models.PointStruct(
                id=point_id(name),
                vector={VECTOR: tokens.tolist(), CANDIDATE_VECTOR: whole.tolist()} if len(tokens) else {},
                payload=point_payload(name, payload),
            )
            for name, tokens, whole, payload in rows
        ]
        for start in range(0, len(points), PASSAGES_A_CALL):
            self.client.upsert(self.collection, points[start : start + PASSAGES_A_CALL], wait=True)

    def delete(self, passage_ids: Sequence[str] | None = None, where: Where | None = None) -> int:
        """Delete passages by id or by payload (or by both) and return how many."""
        if passage_ids is None and where is None:
            raise ValueError("delete: expected ids or a filter, got neither. To delete all, delete the collection.")
        models, before = _models(), len(self)
        conditions = [] if where is None else [filter_of(where, models)]
        if passage_ids is not None:
            conditions.append(models.HasIdCondition(has_id=[point_id(name) for name in passage_ids]))
        selector = models.FilterSelector(filter=models.Filter(must=conditions))
        self.client.delete(self.collection, selector, wait=True)
        return before - len(self)

    def commit(self) -> None:
        """Do nothing: the cluster has answered for every write."""

    def search(self, query_embeddings: list[Tensor], top_k: int = 10, where: Where | None = None) -> Hits:
        """Find passages by candidates and MaxSim, all queries in one request; one without a token finds nothing."""
        models = _models()
        check_search(query_embeddings, top_k, 1, self.dim)
        asked = [number for number, tokens in enumerate(query_embeddings) if len(tokens)]
        requests = [self._request(query_embeddings[number], top_k, filter_of(where, models)) for number in asked]
        hits = Hits([[] for _ in query_embeddings], [[] for _ in query_embeddings])
        answers = self.client.query_batch_points(self.collection, requests) if requests else []
        for number, answer in zip(asked, answers, strict=True):
            hits.document_ids[number] = [point.payload[ID_KEY] for point in answer.points]
            hits.scores[number] = [point.score for point in answer.points]
        return hits

    def _request(self, tokens: Tensor, top_k: int, wanted: Any) -> Any:
        models = _models()
        exact = self.num_candidates is None
        prefetch = models.Prefetch(
            query=self.encoding.queries([tokens])[0].tolist(),
            using=CANDIDATE_VECTOR,
            filter=wanted,
            limit=max(self.num_candidates or 1, top_k),
        )
        return models.QueryRequest(
            query=tokens.tolist(),
            using=VECTOR,
            prefetch=None if exact else prefetch,
            filter=wanted,
            params=models.SearchParams(exact=True) if exact else None,
            limit=top_k,
            with_payload=[ID_KEY],
        )

    def payloads(self, passage_ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return what was added with passages; `ValueError` for one that is not there."""
        records = self.client.retrieve(self.collection, [point_id(name) for name in passage_ids], with_payload=True)
        found = {record.payload[ID_KEY]: record.payload[PAYLOAD_KEY] for record in records}
        unknown = next((name for name in passage_ids if name not in found), None)
        if unknown is not None:
            raise ValueError(f"{unknown!r} is none of the passages of {self.collection!r}. Look at the id.")
        return [found[name] for name in passage_ids]


def _models() -> Any:
    try:
        from qdrant_client import models
    except ImportError as error:
        raise ImportError(missing_extra("qdrant-client")) from error
    return models
