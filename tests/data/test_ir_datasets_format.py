"""Collections by their name in `ir_datasets`: through a stand-in of the library, and through the library if it is there."""

import importlib.util
import sys
from collections import namedtuple
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from drdecr.data.sources import read_questions

Query = namedtuple("Query", ["query_id", "title", "ht_title"])
Query.default_text = lambda self: self.title
TitledDocument = namedtuple("TitledDocument", ["doc_id", "title", "text"])
Page = namedtuple("Page", ["doc_id", "body"])
Page.default_text = lambda self: self.body
Judgement = namedtuple("Judgement", ["query_id", "doc_id", "relevance", "iteration"])

QUERIES = [Query("1", "which river", "mikä joki"), Query("2", "which sea", "mikä meri")]
DOCUMENTS = [TitledDocument("a", "Vesi", "Joki."), Page("b", "Meri."), TitledDocument("c", None, "Suo.")]
JUDGEMENTS = [Judgement("1", "a", 3, "0"), Judgement("1", "b", 0, "0"), Judgement("1", "c", -1, "0")]


class Collection(SimpleNamespace):
    """What `ir_datasets.load` gives, of lists."""

    queries: list[Any] = QUERIES
    documents: list[Any] = DOCUMENTS
    judgements: list[Any] = JUDGEMENTS
    code: str | None = "en"

    def has_docs(self) -> bool:
        return bool(self.documents)

    def has_queries(self) -> bool:
        return bool(self.queries)

    def has_qrels(self) -> bool:
        return bool(self.judgements)

    def queries_lang(self) -> str | None:
        return self.code

    def queries_iter(self):
        return iter(self.queries)

    def docs_iter(self):
        return iter(self.documents)

    def qrels_iter(self):
        return iter(self.judgements)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a module in the library's place; the returned function sets its one collection."""
    module, known = ModuleType("ir_datasets"), {}
    module.load = known.__getitem__  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ir_datasets", module)
    known["hc4/fi"] = Collection()
    return lambda **parts: known.update({"hc4/fi": Collection(**parts)})


def read(**arguments: Any):
    return read_questions({"format": "ir_datasets", "dataset": "hc4/fi", **arguments})


def test_queries_documents_and_grades_are_taken_over(stand_in):
    found = read()
    assert found.name == "hc4/fi"
    assert dict(found.passages) == {"a": "Vesi. Joki.", "b": "Meri.", "c": "Suo."}
    assert found.qrels == {"1": {"a": 3, "b": 0, "c": 0}}
    assert (found.questions["query"][:], found.languages) == (["which river"], {"1": "en"})
    assert "english" not in found.questions.column_names


def test_a_translated_field_is_asked_with_its_english_beside_it(stand_in):
    found = read(query_field="ht_title", english_field="title", language="fi", name="mine")
    assert found.name == "mine"
    assert (found.questions["query"][:], found.questions["english"][:]) == (["mikä joki"], ["which river"])
    assert found.languages == {"1": "fi"}
    with pytest.raises(ValueError, match=r"query 1: expected a text in the field 'nl_title', got None. .* ht_title"):
        read(query_field="nl_title")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"judgements": []}, "hc4/fi: expected documents, queries and qrels, got no qrels. Name a part of it"),
        ({"judgements": [], "queries": []}, "got no queries and no qrels"),
        ({"code": None}, "hc4/fi: expected its queries' `language`"),
        ({"judgements": [*JUDGEMENTS, Judgement("9", "a", 1, "0")]}, "hc4/fi, qrels, line 4: query '9' is not among"),
        ({"judgements": [*JUDGEMENTS, Judgement("2", "z", 1, "0")]}, "hc4/fi, qrels, line 4: passage 'z' is not among"),
        ({"documents": [*DOCUMENTS, Page("a", "x")]}, "hc4/fi, line 4: document_id 'a' stands twice"),
    ],
)
def test_what_is_wrong_is_named_by_data_set_and_row(parts: dict[str, Any], message: str, stand_in):
    stand_in(**parts)
    with pytest.raises(ValueError, match=message):
        read()


def test_an_unknown_name_is_an_error(stand_in):
    with pytest.raises(ValueError, match="hc5: expected a data set that ir_datasets knows"):
        read(dataset="hc5")


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "drdecr\[ir_datasets\]"'):
        read()


@pytest.mark.skipif(importlib.util.find_spec("ir_datasets") is None, reason="needs the extra `ir_datasets`")
def test_the_library_itself_gives_the_same(tmp_path, monkeypatch: pytest.MonkeyPatch):
    """With a collection in TREC files that is registered as the library's own are."""
    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path / "home"))
    import ir_datasets
    from ir_datasets.datasets.base import Dataset
    from ir_datasets.formats import TrecQrels, TsvDocs, TsvQueries
    from ir_datasets.util import LocalDownload

    def file(name: str, text: str) -> LocalDownload:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return LocalDownload(tmp_path / name)

    documents = TsvDocs(file("docs.tsv", "a\tJoki.\nb\tMeri.\n"))
    queries = TsvQueries(file("queries.tsv", "1\tmikä joki\n2\tmikä meri\n"), lang="fi")
    qrels = TrecQrels(file("qrels.txt", "1 0 a 3\n1 0 b 0\n"), {})
    ir_datasets.registry.register("drdecr-test", Dataset(documents, queries, qrels))
    found = read(dataset="drdecr-test")
    assert (dict(found.passages), found.languages) == ({"a": "Joki.", "b": "Meri."}, {"1": "fi"})
    assert found.qrels == {"1": {"a": 3, "b": 0}}
    with pytest.raises(ValueError, match="expected a data set that ir_datasets knows"):
        read(dataset="no-such-collection")
