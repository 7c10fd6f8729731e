"""Collections to indexes: what is encoded, what is left alone, and where a kill leaves it."""

import random
import shutil

import pytest
import torch

from drdecr.retrieval import StoredIndex
from drdecr.retrieval import build as encode
from drdecr.retrieval.build import build_index, open_or_create_index
from drdecr.retrieval.passages import Document, Splitter, room_for_text
from drdecr.retrieval.rerank import rerank_run

WORDS = ["the", "of", "is", "in", "a", "what", "where", "capital", "city", "river", "sea", "king", "paris", "france"]


def text_of(number, words):
    chance = random.Random(number)
    return " ".join(chance.choice(WORDS) for _ in range(words))


@pytest.fixture
def documents():
    return [Document(f"d{n}", text_of(n, 5 + 9 * n), "the king" if n % 2 else "", {"odd": n % 2}) for n in range(6)]


@pytest.fixture
def run(tmp_path, tiny_model):
    """Encode documents into one folder and return the counts."""

    def call(documents, prune=False, **about):
        splitting = Splitter(overlap=3)
        with open_or_create_index(tmp_path / "index", 16, {"model": "tiny", **about}, "float16", 1) as index:
            return build_index(tiny_model, documents, index, splitting, batch_size=4, prune=prune)

    return call


def held(folder):
    index = StoredIndex.open(folder)
    ids = index.passage_ids()
    return dict(zip(ids, zip(index.payloads(ids), index.embeddings(ids), strict=True), strict=True))


def test_passages_are_read_whole_and_know_where_they_stand(run, documents, tiny_model, tmp_path):
    counts = run(documents)
    passages = held(tmp_path / "index")
    assert counts == {"new": 6, "changed": 0, "unchanged": 0, "deleted": 0, "passages": len(passages)}
    texts = {document.document_id: document for document in documents}
    for name, (payload, tokens) in passages.items():
        document = texts[payload["document_id"]]
        assert name.startswith(f"{document.document_id}#")
        assert payload["text"] == document.text[payload["start"] : payload["end"]]
        assert (payload["title"], payload["odd"]) == (document.title, document.metadata["odd"])
        reads = f"{document.title}. {payload['text']}" if document.title else payload["text"]
        torch.testing.assert_close(tokens, tiny_model.encode_documents([reads])[0].half().float(), atol=2e-3, rtol=0)
        assert len(tiny_model.processor.process_documents([reads])["input_ids"][0]) <= 24
        # Nothing was cut off: with more room the passage has as many tokens.
        assert len(tiny_model.processor.tokenizer(reads, add_special_tokens=False)["input_ids"]) <= room_for_text(
            tiny_model.processor
        )
    for document in documents:
        own = [payload for payload, _ in passages.values() if payload["document_id"] == document.document_id]
        covered = {n for payload in own for n in range(payload["start"], payload["end"])}
        assert all(n in covered or document.text[n].isspace() for n in range(len(document.text)))


def test_what_is_there_and_the_same_is_not_encoded_again(run, documents, tmp_path, monkeypatch):
    run(documents)
    before = held(tmp_path / "index")
    encoded = []
    real = encode.encode_in_turn
    monkeypatch.setattr(
        encode, "encode_in_turn", lambda one, process, texts, *a: encoded.extend(texts) or real(one, process, texts, *a)
    )
    assert run(documents)["unchanged"] == 6
    assert encoded == []
    shorter = Document("d5", "the sea", "", {"odd": 1})
    changed = [*documents[1:5], shorter, Document("new", "a city", "", {})]
    assert run(changed) == {"new": 1, "changed": 1, "unchanged": 4, "deleted": 0, "passages": 2}
    assert encoded == ["the sea", "a city"]
    after = held(tmp_path / "index")
    kept = {name for name in before if not name.startswith("d5#")}
    assert set(after) == kept | {"d5#0", "new#0"}
    assert run(changed, prune=True)["deleted"] == 1
    assert {name.split("#")[0] for name in held(tmp_path / "index")} == {"d1", "d2", "d3", "d4", "d5", "new"}


@pytest.mark.parametrize("calls", [0, 1, 2])
def test_a_run_that_was_killed_goes_on_and_ends_as_if_it_had_not_been(
    run, documents, tmp_path, monkeypatch, breaking_off, calls
):
    run(documents)
    truth = held(tmp_path / "index")
    (tmp_path / "index").rename(tmp_path / "whole")
    monkeypatch.setattr(encode, "PASSAGES_PER_COMMIT", 2)
    with breaking_off(encode, "encode_in_turn", calls):
        run(documents)
    counts = run(documents)
    assert (counts["unchanged"] > 0) == (calls > 0)
    passages = held(tmp_path / "index")
    assert passages.keys() == truth.keys()
    for name, (payload, tokens) in truth.items():
        assert passages[name][0] == payload
        torch.testing.assert_close(passages[name][1], tokens, atol=2e-3, rtol=0)


def test_a_folder_of_another_model_and_metadata_without_room_are_refused(run, documents, tmp_path):
    run(documents[:1])
    with pytest.raises(ValueError, match="made with model 'tiny', asked for 'other'"):
        run(documents, model="other")
    with pytest.raises(ValueError, match="may not be called 'digest'"):
        run([Document("x", "a", "", {"digest": 1})])
    assert len(StoredIndex.open(tmp_path / "index")) == 1


def test_numbers_that_would_lose_text_or_documents_are_refused(tiny_model):
    for wrong in ({"passage_tokens": -1}, {"overlap": -1}):
        with pytest.raises(ValueError, match="expected no negative tokens"):
            Splitter(**wrong)
    assert Splitter(passage_tokens=21).room(tiny_model.processor) == Splitter().room(tiny_model.processor) == 21
    with pytest.raises(ValueError, match="expected at most 21"):  # what stands behind would be cut off
        Splitter(passage_tokens=22).passages(Document("a", "the sea"), tiny_model.processor)
    with pytest.raises(
        ValueError, match="top_k: expected a whole number of at least 1, got -1"
    ):  # all but the last one
        rerank_run(tiny_model, {"q": {"a": 1.0}}, {"q": "sea"}, [Document("a", "the sea")], top_k=-1)


def test_blank_documents_and_titles_without_end_have_a_passage(run, tmp_path):
    run(
        [
            Document("blank", "  \n"),
            Document("title", "", text_of(1, 90)),
            Document("both", text_of(2, 60), text_of(3, 90)),
        ]
    )
    passages = held(tmp_path / "index")
    assert passages["blank#0"][0]["text"] == ""
    assert len(passages["title#0"][1]) > 5
    assert len([name for name in passages if name.startswith("both#")]) > 3


def long_and_short():
    """Four documents of some ten passages, and what is left of them: one passage each."""
    long = [Document(f"d{n}", text_of(n, 180)) for n in range(4)]
    return long, [Document(document.document_id, "the sea") for document in long]


def texts_in(folder):
    return {name: payload["text"] for name, (payload, _) in held(folder).items()}


@pytest.mark.parametrize("grows", [False, True])
def test_an_update_that_stops_anywhere_leaves_each_document_as_it_was_or_as_it_is(
    run, tmp_path, tiny_model, monkeypatch, grows
):
    monkeypatch.setattr(encode, "PASSAGES_PER_COMMIT", 1)
    index, truths, collections = tmp_path / "index", [], long_and_short()
    for collection in collections:
        run(collection)
        truths.append(texts_in(index))
        shutil.rmtree(index)
    old, new = (truths[1], truths[0]) if grows else truths
    assert sorted({len(truths[0]), len(truths[1])})[0] == 4
    assert len(truths[0]) > 30
    before, after = collections[::-1] if grows else collections
    own = [{name.split("#")[0]: {} for name in old} for _ in range(2)]
    for side, truth in zip(own, (old, new), strict=True):
        for name, text in truth.items():
            side[name.split("#")[0]][name] = text
    run(before)
    shutil.copytree(index, tmp_path / "old")
    commit, embed = StoredIndex.commit, encode.encode_in_turn
    for calls in range(40):
        shutil.rmtree(index)
        shutil.copytree(tmp_path / "old", index)
        left = [calls]

        def counted(real, left=left):
            def call(*arguments, **options):
                if not left[0]:
                    raise KeyboardInterrupt
                left[0] -= 1
                return real(*arguments, **options)

            return call

        stopped = False
        with monkeypatch.context() as patch:
            patch.setattr(StoredIndex, "commit", counted(commit))
            patch.setattr(encode, "encode_in_turn", counted(embed))
            try:
                run(after)
            except KeyboardInterrupt:
                stopped = True
        found = texts_in(index)
        for name in own[0]:
            passages = {one: text for one, text in found.items() if one.split("#")[0] == name}
            assert passages in (own[0][name], own[1][name]), (calls, name)
        for collection, truth in ((before, old), (after, new)):  # there and back
            run(collection)
            assert texts_in(index) == truth
        if not stopped:
            break
    assert calls > 7  # four commits, each behind its encoding


def test_who_catches_a_failed_encoding_and_commits_has_lost_nothing(tmp_path, tiny_model, monkeypatch):
    long, short = long_and_short()
    with open_or_create_index(tmp_path / "index", 16, {}, "float16", 1) as index:
        build_index(tiny_model, long, index, Splitter(overlap=3))
        before = texts_in(tmp_path / "index")
        with monkeypatch.context() as patch:
            patch.setattr(encode, "encode_in_turn", lambda *a: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                build_index(tiny_model, short, index, Splitter(overlap=3), prune=True)
        index.commit()
    assert texts_in(tmp_path / "index") == before


def test_a_document_that_lost_passages_is_encoded_again(run, tmp_path):
    long, _ = long_and_short()
    run(long)
    truth = texts_in(tmp_path / "index")
    last = max((name for name in truth if name.startswith("d3#")), key=lambda name: int(name.split("#")[1]))
    with StoredIndex.open(tmp_path / "index", writable=True) as index:
        index.delete(["d1#3", last])
        index.commit()
    assert run(long)["changed"] == 2
    assert texts_in(tmp_path / "index") == truth


def test_the_bar_counts_what_is_encoded_and_changes_no_batch(documents, tmp_path, tiny_model, capsys):
    with open_or_create_index(tmp_path / "index", 16, {}, "float16", 1) as index:
        counts = build_index(tiny_model, documents, index, Splitter(overlap=3), 4, show_progress_bar=True)
        texts = [one for document in documents for one in Splitter(overlap=3).passages(document, tiny_model.processor)]
    drawn = capsys.readouterr().err.splitlines()[-1]
    assert f"{counts['passages']} passages" in drawn
    assert "6 documents read" in drawn
    passages = held(tmp_path / "index")
    for passage, tokens in zip(texts, tiny_model.encode_documents([one.reads for one in texts], 4), strict=True):
        assert passages[passage.passage_id][1].equal(tokens.half().float())
