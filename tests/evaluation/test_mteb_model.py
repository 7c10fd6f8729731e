"""mteb and this package's own metrics agree on a task that the test makes."""

import sys

import pytest
from datasets import Dataset

from drdecr.evaluation.metrics import per_query_scores
from drdecr.evaluation.mteb import MtebModel
from drdecr.retrieval import ExactIndex

LETTERS = "bcdefghijk"


def task_of(mteb, documents, queries):
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
    from mteb.abstasks.task_metadata import TaskMetadata

    unknown = ("reference", "date", "domains", "task_subtypes", "license", "annotations_creators", "dialect")
    known = {
        "dataset": {"path": "x/y", "revision": "1"},
        "type": "Retrieval",
        "category": "t2t",
        "modalities": ["text"],
    }

    class Letters(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="Letters",
            description="letters",
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
            sample_creation=None,
            bibtex_citation=None,
            **known,
            **dict.fromkeys(unknown),
        )

        def load_data(self, *_, **__):
            split = RetrievalSplitData(
                corpus=Dataset.from_list([{"id": name, "title": "", "text": text} for name, text in documents.items()]),
                queries=Dataset.from_list([{"id": name, "text": text} for name, text in queries.items()]),
                relevant_docs={f"q{letter}": {f"d{letter}": 1} for letter in LETTERS},
                top_ranked=None,
            )
            self.dataset, self.data_loaded = {"default": {"test": split}}, True

    return Letters()


def test_mteb_gives_the_figures_of_our_own_metrics(tiny_model):
    mteb = pytest.importorskip("mteb", reason="needs the extra `mteb`")
    documents = {f"d{letter}": f"the city {letter} is in france" for letter in LETTERS}
    queries = {f"q{letter}": f"what is the city {letter}" for letter in LETTERS}
    result = mteb.evaluate(MtebModel(tiny_model, "alice/tiny"), task_of(mteb, documents, queries), cache=None)
    theirs = result.task_results[0].scores["test"][0]
    index = ExactIndex(list(documents), tiny_model.encode_documents(list(documents.values())))
    run = index.search(tiny_model.encode_queries(list(queries.values())), top_k=10).as_run(list(queries))
    qrels = {f"q{letter}": {f"d{letter}": 1} for letter in LETTERS}
    for name, measure in (("ndcg_at_10", "nDCG@10"), ("mrr_at_10", "RR@10"), ("recall_at_5", "R@5")):
        ours = per_query_scores(run, qrels, [measure])[measure]
        assert theirs[name] == pytest.approx(sum(ours.values()) / len(ours), abs=1e-5)
    assert 0 < theirs["ndcg_at_10"] < 1


def test_without_mteb_the_extra_is_named(tiny_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "mteb.models", None)
    with pytest.raises(ImportError, match=r"pip install drdecr\[mteb\]"):
        MtebModel(tiny_model, "alice/tiny")
