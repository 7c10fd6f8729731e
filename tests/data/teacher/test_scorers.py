"""Scorers: a plain loop over pairs gives what they give, whatever stands beside a pair in its batch."""

import gzip
import json
import math

import pytest
import torch
from datasets import Dataset
from transformers import BertConfig, BertForSequenceClassification

from drdecr.data.embeddings.cache import TokenCache
from drdecr.data.files import digest_of
from drdecr.data.teacher import scorers as stored_scores
from drdecr.data.teacher.annotate import annotate_rows
from drdecr.data.teacher.scorers import CrossEncoderScorer, FileScorer, TeacherScorer
from drdecr.modeling_drdecr import DrDecrModel

PASSAGES = {"a": "paris , the capital of france .", "b": "the sea", "c": "a river in the city of the king", "d": "? !"}
ROWS = [
    {"query_id": "1", "query": "z b", "english": "where is the king ?", "language": "xx", "document_ids": ["c", "a"]},
    {"query_id": "2", "query": "z c", "english": "paris", "language": "xx", "document_ids": ["a", "b", "c", "d"]},
    {
        "query_id": "3",
        "query": "z",
        "english": "what is the capital city of france ?",
        "language": "yy",
        "document_ids": ["b"],
    },
]


@pytest.fixture
def cross_encoder(tmp_path, tiny_tokenizer):
    """`cross_encoder(outputs)` saves a seeded one and returns it with its folder."""

    def make(outputs: int):
        torch.manual_seed(outputs)
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        config = BertConfig(vocab_size=64, max_position_embeddings=64, pad_token_id=1, num_labels=outputs, **sizes)
        model = BertForSequenceClassification(config).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        folder = tmp_path / f"cross-{outputs}"
        model.save_pretrained(folder)
        tiny_tokenizer.save_pretrained(folder)
        return model, str(folder)

    return make


def test_the_teachers_score_is_maxsim_of_the_english_question(tiny_model: DrDecrModel):
    queries = TokenCache.of_queries(tiny_model, [row["english"] for row in ROWS])
    documents = TokenCache.of_documents(tiny_model, PASSAGES)
    scorer = TeacherScorer(queries, documents, {"name": "t"}, batch_size=2)
    for row, found in zip(ROWS, scorer.score(ROWS), strict=True):
        query = tiny_model.encode_queries([row["english"]])[0]
        expected = [
            sum(max(float(q @ d) for d in tiny_model.encode_documents([PASSAGES[name]])[0]) for q in query)
            for name in row["document_ids"]
        ]
        assert found == pytest.approx(expected, abs=5e-3)
    assert scorer.query_tokens(ROWS) == [8, 4, 11]


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("reads", ["english", "query"])
def test_a_cross_encoder_reads_each_pair_as_if_it_were_alone(cross_encoder, tiny_tokenizer, outputs, reads):
    model, folder = cross_encoder(outputs)
    scorer = CrossEncoderScorer(folder, PASSAGES, reads=reads, batch_size=3, max_length=14)
    for row, found in zip(ROWS, scorer.score(ROWS), strict=True):
        for name, score in zip(row["document_ids"], found, strict=True):
            words = tiny_tokenizer(
                row[reads], PASSAGES[name], truncation="only_second", max_length=14, return_tensors="pt"
            )
            logits = model(**words).logits[0].tolist()
            assert score == pytest.approx(logits[-1] - (logits[0] if outputs == 2 else 0), abs=1e-5)
    assert scorer.query_tokens(ROWS) == [0, 0, 0]
    other = CrossEncoderScorer(cross_encoder(3 - outputs)[1], PASSAGES)
    assert scorer.facts["revision"] != other.facts["revision"]


def test_what_was_not_trained_to_rank_is_refused(cross_encoder, tiny_model: DrDecrModel, tmp_path):
    with pytest.raises(ValueError, match="expected a cross-encoder of one or two outputs, got 3 outputs"):
        CrossEncoderScorer(cross_encoder(3)[1], PASSAGES)
    bare = tmp_path / "bare"
    cross_encoder(1)[0].bert.save_pretrained(bare)
    tiny_model.processor.tokenizer.save_pretrained(bare)
    with pytest.raises(ValueError, match="weights that the checkpoint lacks"):
        CrossEncoderScorer(str(bare), PASSAGES)


def test_a_row_that_a_cross_encoder_cannot_read_is_named(cross_encoder):
    scorer = CrossEncoderScorer(cross_encoder(1)[1], PASSAGES, max_length=7)  # its pairs have no special tokens
    with pytest.raises(ValueError, match=r"expected questions of fewer than 7 tokens, .* got 7 in 'b c d e f g h'"):
        scorer.score([{**ROWS[0], "english": "b c d e f g h"}])
    with pytest.raises(ValueError, match=r"question .*: expected a text in 'english', .* got None"):
        scorer.score([{**ROWS[0], "english": None}])
    with pytest.raises(ValueError, match=r"question .*: candidate 'x' is not among the 4 passages"):
        scorer.score([{**ROWS[0], "document_ids": ["x"]}])


def test_every_form_of_a_score_file_says_the_same(tmp_path):
    scores = {"1": {"c": 2.5, "a": -1.0}, "2": {"a": 3.0, "b": 0.5, "c": 0.25, "d": -2.0}, "3": {"b": 1.0}}
    pairs = [(query, name, score) for query, own in scores.items() for name, score in own.items()]
    (tmp_path / "s.tsv").write_text("".join(f"{q}\t{d}\t{s}\n" for q, d, s in pairs))
    (tmp_path / "s.run").write_text("".join(f"{q} Q0 {d} 1 {s} system\n" for q, d, s in pairs))
    lines = "".join(json.dumps([q, *map(list, own.items())]) + "\n" for q, own in scores.items())
    with gzip.open(tmp_path / "s.jsonl.gz", "wt") as stream:
        stream.write(lines)
    for name in ("s.tsv", "s.run"):  # as some programs write UTF-8, with a mark at its start
        (tmp_path / f"marked-{name}").write_bytes(b"\xef\xbb\xbf" + (tmp_path / name).read_bytes())
    for name in ("s.tsv", "s.run", "s.jsonl.gz", "marked-s.tsv", "marked-s.run"):
        scorer = FileScorer(str(tmp_path / name))
        assert scorer.score(ROWS) == [[2.5, -1.0], [3.0, 0.5, 0.25, -2.0], [1.0]]
    with pytest.raises(ValueError, match="expected a score of passage 'd' for question '3', got none"):
        scorer.score([{**ROWS[2], "document_ids": ["b", "d"]}])
    (tmp_path / "odd.tsv").write_text("1\tc\t2.5\n1\ta\n")
    with pytest.raises(
        ValueError, match=r"odd.tsv, line 2: expected query id, document id and score.* or drop the line"
    ):
        FileScorer(str(tmp_path / "odd.tsv"), tmp_path / "kept" / "scores.sqlite3")
    assert not (tmp_path / "kept").exists()


def test_scores_are_read_once_and_again_when_the_file_changes(tmp_path, monkeypatch):
    file, store = tmp_path / "s.jsonl", tmp_path / "kept" / "scores.sqlite3"
    lines = ['["1", ["c", 2.5], ["a", -1]]', '["1", ["a", 7]]', '[2, ["\\ud800", 0.1], ["n", NaN]]']
    file.write_text("\n".join(lines))
    first = FileScorer(str(file), store)
    assert first.score([{"query_id": "1", "document_ids": ["a", "c"]}]) == [[7.0, 2.5]]  # the last one counts
    assert first.scores.get("2", "\ud800") == 0.1
    assert math.isnan(first.scores.get("2", "n"))
    assert first.scores.get("2", "c") is None
    monkeypatch.setattr(stored_scores, "scores_of", None)
    again = FileScorer(str(file), store)
    assert again.scores.get("1", "a") == 7.0
    assert again.facts == first.facts == {"scorer": "s.jsonl", "revision": digest_of(file)}
    monkeypatch.undo()
    file.write_text("\n".join(lines[::-1]))
    other = FileScorer(str(file), store)
    assert other.scores.get("1", "a") == -1.0
    assert other.facts["revision"] != first.facts["revision"]
    assert [path.name for path in store.parent.iterdir()] == [store.name]


def test_annotated_rows_keep_their_order_and_columns(tmp_path):
    (tmp_path / "s.tsv").write_text("1\tc\t2.5\n1\ta\t-1\n2\ta\t3\n2\tb\t1\n2\tc\t0\n2\td\t4\n3\tb\t7\n")
    scorer = FileScorer(str(tmp_path / "s.tsv"))
    found = annotate_rows(Dataset.from_list(ROWS), PASSAGES, scorer, tmp_path / "shards", rows_per_shard=2)
    assert [row["teacher_scores"] for row in found] == [[2.5, -1.0], [3, 1, 0, 4], [7]]
    for row, before in zip(found, ROWS, strict=True):
        assert {name: row[name] for name in before} == before
        assert row["teacher_query_tokens"] == 0
        assert json.loads(row["scored_by"])["scorer"] == "s.tsv"
    (tmp_path / "nan.tsv").write_text("1\tc\t2.5\n1\ta\tnan\n")
    with pytest.raises(ValueError, match="row 1, 'z b': expected finite scores"):
        annotate_rows(Dataset.from_list(ROWS[:1]), PASSAGES, FileScorer(str(tmp_path / "nan.tsv")), tmp_path / "nan")
    # What other texts were scored for is not taken over.
    with pytest.raises(ValueError, match=r"what differs: texts"):
        annotate_rows(Dataset.from_list(ROWS), {**PASSAGES, "d": "!"}, scorer, tmp_path / "shards", rows_per_shard=2)
