"""A model for `mteb.evaluate`: exact MaxSim over a retrieval task's corpus."""

from typing import Any

from drdecr.modeling_drdecr import DrDecrModel
from drdecr.retrieval import ExactIndex


class MtebModel:
    """What mteb calls a search model: it gets a task's corpus and questions, and gives ranked documents.

        mteb.evaluate(MtebModel(model, "user/student"), mteb.get_tasks(["MIRACLRetrieval"], languages=["fin"]))

    Args:
        model: a student or a teacher.
        name: under which mteb files the results, `user/name`.
        revision: of that name; default `local`.

    Raises:
        ImportError: without the extra `mteb`.
    """

    def __init__(self, model: DrDecrModel, name: str, revision: str = "local") -> None:
        try:
            from mteb.models import ModelMeta
        except ImportError as error:
            raise ImportError("mteb's tasks need `pip install drdecr[mteb]`.") from error
        self.model = model
        about = {"name": name, "revision": revision, "model_type": ["late-interaction"], "similarity_fn_name": "MaxSim"}
        self.mteb_model_meta = ModelMeta.create_empty().model_copy(update=about)
        self._index: ExactIndex | None = None

    def index(self, corpus: Any, **_: Any) -> None:
        """Encode a task's corpus: rows with `id`, `text` and perhaps `title`."""
        rows = list(corpus)
        texts = [" ".join(part for part in (row.get("title"), row.get("text")) if part) for row in rows]
        self._index = ExactIndex([str(row["id"]) for row in rows], self.model.encode_documents(texts))

    def search(self, queries: Any, *, top_k: int, top_ranked: Any = None, **_: Any) -> dict[str, dict[str, float]]:
        """Return the best documents of each query, `{query_id: {document_id: score}}`.

        Raises:
            ValueError: for a reranking task, or before `index`.
        """
        if top_ranked is not None:
            raise ValueError(
                "MtebModel searches whole collections, got a task with candidates. Leave reranking tasks out."
            )
        if self._index is None:
            raise ValueError("search: expected `index` to be called before.")
        rows = list(queries)
        encoded = self.model.encode_queries([row["text"] for row in rows])
        return self._index.search(encoded, top_k=min(top_k, len(self._index))).as_run([str(row["id"]) for row in rows])
