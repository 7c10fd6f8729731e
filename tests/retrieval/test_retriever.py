"""One step and two steps answer through one interface, documents once each."""

from dataclasses import dataclass

import pytest
import torch

from drdecr.retrieval import ExactIndex
from drdecr.retrieval.build import build_index, open_or_create_index
from drdecr.retrieval.exact import InMemoryIndex
from drdecr.retrieval.passages import Document, Splitter
from drdecr.retrieval.retriever import DirectRetriever, TranslateTestRetriever, as_run, search_documents
from drdecr.retrieval.stored.index import StoredIndex
from drdecr.retrieval.stored.manifest import MANIFEST_NAME


@dataclass
class Translated:
    text: str


class WordTranslator:
    """`z` means `the sea`, word by word."""

    asked: tuple = ()

    def translate(self, texts, source, target="en"):
        self.asked = (source, target)
        return [
            Translated(" ".join({"z": "the sea", "y": ""}.get(word, word) for word in text.split())) for text in texts
        ]


@pytest.fixture
def index(tmp_path, tiny_model):
    long = " ".join(["the king of france is in paris ."] * 30)
    texts = ["the sea", "a river in a city", "what is paris", "k"]
    documents = [Document("long", long, "", {"kind": "a"})]
    documents += [Document(f"d{number}", text, "", {"kind": "b"}) for number, text in enumerate(texts)]
    with open_or_create_index(tmp_path / "index", 16, {}, "float16", 1) as opened:
        build_index(tiny_model, documents, opened, Splitter(overlap=3))
    return StoredIndex.open(tmp_path / "index")


def test_a_long_document_is_found_once_and_does_not_push_out_others(index, tiny_model):
    questions = ["the king of france", "the sea"]
    for top_k in (1, 3, 5, 9):
        answers = DirectRetriever(tiny_model, index).search(questions, top_k)
        for question, found in zip(questions, answers, strict=True):
            ids = index.passage_ids()
            query = tiny_model.encode_queries([question])
            scores = tiny_model.score(query, index.embeddings(ids))[0].tolist()
            best = {}
            for name, score in zip(ids, scores, strict=True):
                document = name.split("#")[0]
                best[document] = max(score, best.get(document, score))
            truth = sorted(best, key=lambda name: -best[name])[:top_k]
            assert [one.document_id for one in found] == truth
            assert [one.score for one in found] == pytest.approx([best[name] for name in truth], abs=1e-3)
            assert all(one.text and one.end > one.start for one in found)
    [[only]] = DirectRetriever(tiny_model, index).search(["the sea"], 3, {"kind": "a"})
    assert (only.document_id, only.metadata) == ("long", {"kind": "a"})
    assert as_run(["q"], [[only]]) == {"q": {"long": only.score}}


def test_two_steps_ask_the_reader_in_english(index, tiny_model):
    reader, translator = DirectRetriever(tiny_model, index), WordTranslator()
    system = TranslateTestRetriever(translator, reader, source="xx")
    assert system.search(["z", "y", "k"], 2) == reader.search(["the sea", "y", "k"], 2)
    assert translator.asked == ("xx", "en")
    assert system.search([]) == []
    answered = system.answer(["z", "y"], 2)
    assert [one.searched_for for one in answered] == ["the sea", "y"]
    assert [one.documents for one in answered] == reader.search(["the sea", "y"], 2)
    assert [one.searched_for for one in reader.answer(["z"])] == [None]
    translator.translate = lambda texts, source, target: []
    with pytest.raises(ValueError, match="Expected 1 translations, got 0"):
        system.search(["z"])


def test_passages_in_memory_are_documents_of_their_own(tiny_model):
    texts = {"a": "the sea", "b": "a river"}
    found = InMemoryIndex(ExactIndex(list(texts), tiny_model.encode_documents(list(texts.values()))), texts)
    answers = search_documents(found, tiny_model.encode_queries(["the sea"]), 5)
    assert {one.document_id: one.text for one in answers[0]} == texts
    assert len(found) == 2
    with pytest.raises(ValueError, match="no metadata"):
        search_documents(found, [torch.ones(1, 16)], 1, {"a": 1})


def test_a_damaged_commit_is_named_once_and_the_next_whole_one_followed(tmp_path):
    with StoredIndex.create(tmp_path / "index", 4) as index:
        index.add(["one"], [torch.ones(2, 4)])
        index.commit()
    opened = StoredIndex.open(tmp_path / "index")
    retriever = DirectRetriever(None, opened)
    assert not retriever.refresh()
    whole = (tmp_path / "index" / MANIFEST_NAME).read_text()
    (tmp_path / "index" / MANIFEST_NAME).write_text("{")
    with pytest.raises(ValueError, match="index"):
        retriever.refresh()
    assert not retriever.refresh()  # not tried again before the next commit
    (tmp_path / "index" / MANIFEST_NAME).write_text(whole)
    with StoredIndex.open(tmp_path / "index", writable=True) as index:
        index.add(["two"], [torch.ones(2, 4)])
        index.commit()
    assert retriever.refresh()
    assert len(opened) == 2
