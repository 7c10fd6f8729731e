"""BEIR, MIRACL and Mr. TyDi: files as their descriptions have them, and files that are wrong, named by line."""

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from drdecr.data.sources import read_questions
from drdecr.evaluation.metrics import per_query_scores


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(line + "\n" for line in lines)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def json_lines(path: Path, *records: Any) -> Path:
    return write(path, *(json.dumps(record, ensure_ascii=False) for record in records))


@pytest.fixture
def beir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three queries over four passages: q1 graded, q2 judged not relevant only, q3 of another split."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    folder = tmp_path / "fish"
    json_lines(
        folder / "corpus.jsonl",
        {"_id": "d1", "title": "Pike", "text": "A fish of lakes.", "metadata": {}},
        {"_id": "d2", "title": "", "text": "A fish of rivers. "},
        {"_id": "d3", "text": "A bird."},
        {"_id": "d4", "title": "Title alone", "text": ""},
    )
    json_lines(
        folder / "queries.jsonl",
        {"_id": "q1", "text": "which fish?", "metadata": {}},
        {"_id": "q2", "text": "which tree?"},
        {"_id": "q3", "text": "which bird?"},
    )
    write(
        folder / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore", "q1\td1\t2", "q1\td3\t0", "q1\td2\t1", "q2\td1\t0"
    )
    write(folder / "qrels" / "train.tsv", "query-id\tcorpus-id\tscore", "q3\td3\t1")
    return folder


def entry(folder: Path, **arguments: Any) -> dict[str, Any]:
    return {"format": "beir", "folder": str(folder), **arguments}


def test_beir_keeps_grades_and_what_is_judged_not_relevant(beir: Path):
    found = read_questions(entry(beir))
    assert found.name == "fish"
    assert dict(found.passages) == {
        "d1": "Pike. A fish of lakes.",
        "d2": "A fish of rivers.",
        "d3": "A bird.",
        "d4": "Title alone",
    }
    assert found.qrels == {"q1": {"d1": 2, "d2": 1, "d3": 0}}
    assert found.questions.to_list() == [
        {
            "query_id": "q1",
            "query": "which fish?",
            "language": "en",
            "document_ids": ["d1", "d2"],
            "relevance": [2, 1],
            "irrelevant_ids": ["d3"],
        }
    ]
    assert found.answers == {}


def test_grades_count_in_ndcg(beir: Path):
    """By hand: the gain 1 first and 2 second is (1 + 2 / log2(3)) / (2 + 1 / log2(3)) = 0.8597 of the best."""
    qrels = read_questions(entry(beir)).qrels
    scores = per_query_scores({"q1": {"d2": 3.0, "d1": 2.0, "d3": 1.0}}, qrels, ["nDCG@10"])
    assert scores["nDCG@10"]["q1"] == pytest.approx(0.8597, abs=1e-4)


def test_queries_without_a_relevant_passage_are_left_out_and_counted(beir: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        read_questions(entry(beir))
    assert "fish: 2 of 3 queries left out, no passage is judged relevant to them (1 have judgements)" in caplog.text
    other = read_questions(entry(beir, split="train", language="fi", name="train"))
    assert (other.name, other.qrels, other.languages) == ("train", {"q3": {"d3": 1}}, {"q3": "fi"})


def test_blank_passages_are_left_out_and_counted_with_their_judgements(beir: Path, caplog: pytest.LogCaptureFixture):
    with (beir / "corpus.jsonl").open("a") as stream:
        stream.write('{"_id": "d5", "title": "", "text": " "}\n')
    with (beir / "qrels" / "test.tsv").open("a") as stream:
        stream.write("q1\td5\t1\n")
    with caplog.at_level(logging.WARNING):
        found = read_questions(entry(beir))
    assert "fish: 1 passages left out, they are blank; with them 1 judgements" in caplog.text
    assert "d5" not in found.passages
    assert found.qrels == {"q1": {"d1": 2, "d2": 1, "d3": 0}}


def test_packed_files_are_read_like_plain_ones(beir: Path):
    plain = read_questions(entry(beir))
    for name in ("corpus.jsonl", "queries.jsonl"):
        (beir / f"{name}.gz").write_bytes(gzip.compress((beir / name).read_bytes()))
        (beir / name).unlink()
    packed = read_questions(entry(beir))
    assert (dict(packed.passages), packed.questions.to_list()) == (dict(plain.passages), plain.questions.to_list())
    whole = (beir / "corpus.jsonl.gz").read_bytes()
    (beir / "corpus.jsonl.gz").write_bytes(whole[:-4])  # all lines can still be read, and then no end comes
    lines = len(gzip.decompress(whole).splitlines())
    with pytest.raises(ValueError, match=rf"corpus.jsonl.gz, line {lines + 1}: expected a whole gzip file"):
        read_questions(entry(beir))
    (beir / "corpus.jsonl.gz").write_bytes(b"no gzip at all")
    with pytest.raises(ValueError, match=r"corpus.jsonl.gz, line 1: expected a whole gzip file"):
        read_questions(entry(beir))


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        (
            "corpus.jsonl",
            '{"_id": "d9"}',
            r"corpus.jsonl, line 5: expected the fields _id, text, got _id; missing text",
        ),
        ("corpus.jsonl", '{"_id": "d9", "text": 7}', r"corpus.jsonl, line 5: expected a text as 'text', got 7"),
        ("corpus.jsonl", '{"_id": "d1", "text": "x"}', r"corpus.jsonl, line 5: document_id 'd1' stands twice"),
        ("corpus.jsonl", '{"_id": "d9", "text": "x", "title": 1}', r"corpus.jsonl, line 5: expected a text as 'title'"),
        ("corpus.jsonl", '{"_id": "d9", "te', r"corpus.jsonl, line 5: expected one JSON object a line"),
        (
            "queries.jsonl",
            '{"_id": "q9", "text": " "}',
            r"queries.jsonl, line 4: expected a text of query 'q9', got none",
        ),
        ("queries.jsonl", '{"_id": "q1", "text": "x"}', r"queries.jsonl, line 4: query 'q1' stands twice"),
        ("queries.jsonl", '{"id": "q9", "text": "x"}', r"queries.jsonl, line 4: expected the fields _id, text"),
        (
            "qrels/test.tsv",
            "q1 d1 1",
            r"test.tsv, line 6: expected the fields query-id, corpus-id, score, got \['q1 d1 1'",
        ),
        ("qrels/test.tsv", "q1\td1\t0.5", r"test.tsv, line 6: expected a whole number as relevance, got '0.5'"),
        ("qrels/test.tsv", "q1\td1\t1", r"test.tsv, line 6: passage 'd1' is judged 1 for query 'q1', and 2 before"),
        ("qrels/test.tsv", "q9\td1\t1", r"test.tsv, line 6: query 'q9' is not among the 3 queries"),
        ("qrels/test.tsv", "q1\td9\t1", r"test.tsv, line 6: passage 'd9' is not among the 4 passages"),
        ("qrels/test.tsv", "q1\td9\t0", r"test.tsv, line 6: passage 'd9' is not among the 4 passages"),
    ],
)
def test_a_wrong_line_is_named_and_nothing_is_left_behind(file: str, line: str, message: str, beir: Path):
    with (beir / file).open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")
    with pytest.raises(ValueError, match=message):
        read_questions(entry(beir))
    assert not list((beir.parent / "temporary").iterdir())


def test_files_that_are_missing_empty_or_headless_are_named(beir: Path):
    with pytest.raises(FileNotFoundError, match=r"qrels/dev.tsv: no such file"):
        read_questions(entry(beir, split="dev"))
    write(beir / "qrels" / "dev.tsv", "q1\td1\t1", "q1\td2\t1")
    with pytest.raises(
        ValueError, match=r"dev.tsv, line 1: expected the header query-id, corpus-id, score .* got \['q1'"
    ):
        read_questions(entry(beir, split="dev"))
    write(beir / "qrels" / "dev.tsv", "query-id\tcorpus-id\tscore")
    with pytest.raises(ValueError, match=r"dev.tsv: expected judgements, got none"):
        read_questions(entry(beir, split="dev"))
    write(beir / "qrels" / "dev.tsv", "query-id\tcorpus-id\tscore", "q1\td1\t0")
    with pytest.raises(ValueError, match=r"fish: no query has a relevant passage in .*dev.tsv"):
        read_questions(entry(beir, split="dev"))
    write(beir / "corpus.jsonl")
    with pytest.raises(ValueError, match=r"corpus.jsonl: expected passages with text, got none"):
        read_questions(entry(beir))


@pytest.fixture
def miracl(tmp_path: Path) -> dict[str, Any]:
    """One topic with a relevant and an irrelevant passage; the corpus in two packed files."""
    write(tmp_path / "topics.tsv", "1#0\tMikä joki? ", "2#0\tMikä meri?")
    write(tmp_path / "qrels.tsv", "1#0\tQ0\t5#1\t1", "1#0\tQ0\t5#0\t0")
    for number, text in enumerate(["Meri on suuri.", "Joki virtaa."]):
        record = {"docid": f"5#{number}", "title": "Vesi", "text": text}
        json_lines(tmp_path / f"docs-{number}.jsonl.gz", record)
    paths = {"topics": "topics.tsv", "qrels": "qrels.tsv", "passages": "docs-*.jsonl.gz"}
    return {"format": "miracl", "language": "fi", **{key: str(tmp_path / path) for key, path in paths.items()}}


def test_miracl_is_read_with_a_corpus_in_parts(miracl: dict[str, Any], caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        found = read_questions(miracl)
    assert found.name == "miracl-fi"
    assert dict(found.passages) == {"5#0": "Vesi. Meri on suuri.", "5#1": "Vesi. Joki virtaa."}
    assert found.qrels == {"1#0": {"5#1": 1, "5#0": 0}}
    assert (found.questions["query"][:], found.languages) == (["Mikä joki?"], {"1#0": "fi"})
    assert "miracl-fi: 1 of 2 queries left out" in caplog.text
    parts = [miracl["passages"].replace("*", number) for number in ("1", "0")]
    assert dict(read_questions({**miracl, "passages": parts}).passages) == dict(found.passages)


def test_a_byte_order_mark_is_no_part_of_an_id(miracl: dict[str, Any]):
    plain = read_questions(miracl)
    for key in ("topics", "qrels"):
        file = Path(miracl[key])
        file.write_text("\ufeff" + file.read_text(encoding="utf-8"), encoding="utf-8")
    marked = read_questions(miracl)
    assert (marked.qrels, marked.questions[:]) == (plain.qrels, plain.questions[:])


def test_mr_tydi_is_read_with_spaces_in_qrels_and_in_the_form_of_its_archive(tmp_path: Path, miracl: dict[str, Any]):
    write(tmp_path / "qrels.tsv", "1#0 Q0 5#1 1")
    passages = json_lines(
        tmp_path / "docs.jsonl",
        {"id": "5#1", "contents": "Joki virtaa."},
        {"docid": "5#2", "title": "", "text": "Meri."},
    )
    found = read_questions({**miracl, "format": "mr_tydi", "passages": str(passages)})
    assert (found.name, found.qrels) == ("mr-tydi-fi", {"1#0": {"5#1": 1}})
    assert dict(found.passages) == {"5#1": "Joki virtaa.", "5#2": "Meri."}


@pytest.mark.parametrize(
    ("file", "lines", "message"),
    [
        (
            "topics.tsv",
            ["1#0\ta", "2#0 b"],
            r"topics.tsv, line 2: expected a query id and a query with a tab .*'2#0 b'",
        ),
        ("topics.tsv", ["1#0\ta\tb"], r"topics.tsv, line 1: expected a query id and a query"),
        (
            "qrels.tsv",
            ["1#0 Q0 5#1 1", "1#0 5#1 1"],
            r"qrels.tsv, line 2: expected the fields query id, Q0, document id, ",
        ),
        ("qrels.tsv", ["1#0 Q0 5#1 yes"], r"qrels.tsv, line 1: expected a whole number as relevance, got 'yes'"),
        ("qrels.tsv", ["1#0 Q0 5#9 1"], r"qrels.tsv, line 1: passage '5#9' is not among the 2 passages"),
        (
            "docs-1.jsonl.gz",
            ['{"docid": "5#0", "text": "x"}'],
            r"docs-1.jsonl.gz, line 1: document_id '5#0' stands twice",
        ),
        (
            "docs-1.jsonl.gz",
            ['{"_id": "5#1", "text": "x"}'],
            r"docs-1.jsonl.gz, line 1: expected the fields docid, text",
        ),
    ],
)
def test_a_wrong_line_of_miracl_is_named(
    file: str, lines: list[str], message: str, miracl: dict[str, Any], tmp_path: Path
):
    write(tmp_path / file, *lines)
    with pytest.raises(ValueError, match=message):
        read_questions(miracl)


def test_no_file_of_a_corpus_in_parts_is_an_error(miracl: dict[str, Any]):
    with pytest.raises(FileNotFoundError, match=r"part-\*.jsonl: no file is named like that"):
        read_questions({**miracl, "passages": miracl["passages"].replace("docs-*.jsonl.gz", "part-*.jsonl")})
    with pytest.raises(ValueError, match="Expected at least one path"):
        read_questions({**miracl, "passages": []})
