"""A collection of a Qdrant cluster (`qdrant-client`), for more than one machine holds; docs/qdrant.md has the runbook.

Each passage has two vectors: its tokens, compared by MaxSim and in no graph, and one vector of MUVERA in a graph. A search takes
candidates by the one and ranks them by the other, in one request.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .exact import Hits
from .muvera import FixedDimensionalEncoding
from .protocol import Where, check_search
from .qdrant_common import ID_KEY, IDS_A_CALL, VECTOR, PointIndex, calls_of, filter_of, missing_extra

CANDIDATE_VECTOR = "muvera"
PASSAGES_A_CALL, QUERIES_A_CALL = 64, 64


class QdrantIndex(PointIndex):
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
        super().__init__(dim, _models(), f"collection {collection!r}", PASSAGES_A_CALL)
        self.client, self.collection = client, collection
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

    def _points(
        self, ids: Sequence[str], embeddings: Sequence[Tensor], payloads: Sequence[dict[str, Any]]
    ) -> list[Any]:
        rows = zip(ids, embeddings, self.encoding.documents(list(embeddings)), payloads, strict=True)
        return [
            self._models.PointStruct(
                id=one,
                vector={VECTOR: tokens.tolist(), CANDIDATE_VECTOR: whole.tolist()} if len(tokens) else {},
                payload=payload,
            )
            for one, tokens, whole, payload in rows
        ]

    def _upsert(self, points: list[Any]) -> None:
        self.client.upsert(self.collection, points, wait=True)

    def _has_id(self, ids: list[str]) -> Any:
        return self._models.HasIdCondition(has_id=ids)

    def _delete(self, wanted: Any) -> None:
        self.client.delete(self.collection, self._models.FilterSelector(filter=wanted), wait=True)

    def _records(self, ids: list[str]) -> list[Any]:
        return self.client.retrieve(self.collection, ids, with_payload=True)

    def _some_ids(self, offset: Any) -> tuple[list[Any], Any]:
        return self.client.scroll(self.collection, limit=IDS_A_CALL, offset=offset, with_payload=[ID_KEY])

    def commit(self) -> None:
        """Do nothing: the cluster has answered for every write."""

    def search(self, query_embeddings: list[Tensor], top_k: int = 10, where: Where | None = None) -> Hits:
        """Find passages by candidates and MaxSim, 64 queries in one request; one without a token finds nothing."""
        models = self._models
        check_search(query_embeddings, top_k, 1, self.dim)
        asked = [number for number, tokens in enumerate(query_embeddings) if len(tokens)]
        wanted = filter_of(where, models)
        hits = Hits([[] for _ in query_embeddings], [[] for _ in query_embeddings])
        for call in calls_of([query_embeddings[number] for number in asked], QUERIES_A_CALL):
            requests = [self._request(query_embeddings[number], top_k, wanted) for number in asked[call]]
            answers = self.client.query_batch_points(self.collection, requests)
            for number, answer in zip(asked[call], answers, strict=True):
                hits.document_ids[number] = [point.payload[ID_KEY] for point in answer.points]
                hits.scores[number] = [point.score for point in answer.points]
        return hits

    def _request(self, tokens: Tensor, top_k: int, wanted: Any) -> Any:
        models = self._models
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


def _models() -> Any:
    try:
        from qdrant_client import models
    except ImportError as error:
        raise ImportError(missing_extra("qdrant-client")) from error
    return models
