"""Documents and questions of every form come out the same; what cannot be read is named with its line."""

import datetime
import gzip
import json

import pyarrow as pa
import pyarrow.parquet
import pytest

from drdecr.data.corpus import read_documents, read_queries
from drdecr.retrieval.passages import Document

ROWS = [
    {"document_id": "a", "title": "Lighthouse", "text": "It was built\nby a queen.", "year": 1850, "tags": ["sea"]},
    {"document_id": "b", "text": "", "year": None},
    {"document_id": "3", "text": "数は三。", "open": True},
]
DOCUMENTS = [
    Document("a", "It was built\nby a queen.", "Lighthouse", {"year": 1850, "tags": ["sea"]}),
    Document("b", ""),
    Document("3", "数は三。", "", {"open": True}),
]


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def test_json_lines_parquet_and_packed_files_are_read_alike(tmp_path):
    (tmp_path / "d.jsonl").write_text(lines(ROWS), encoding="utf-8")
    with gzip.open(tmp_path / "d.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(lines(ROWS))
    pyarrow.parquet.write_table(pa.Table.from_pylist(ROWS, _schema()), tmp_path / "d.parquet")
    for name in ("d.jsonl", "d.jsonl.gz", "d.parquet"):
        assert list(read_documents(tmp_path / name)) == DOCUMENTS


def _schema():
    texts = {name: pa.string() for name in ("document_id", "title", "text")}
    return pa.schema({**texts, "year": pa.int64(), "tags": pa.list_(pa.string()), "open": pa.bool_()}.items())


def test_a_dataset_is_read_by_its_hub_name(tmp_path, monkeypatch):
    import datasets

    asked = []
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *a, **k: asked.append((a, k)) or datasets.Dataset.from_list(ROWS[:1])
    )
    assert list(read_documents("hub:user/name@config")) == DOCUMENTS[:1]
    assert asked == [(("user/name", "config"), {"split": "train"})]


def test_tsv_has_names_or_an_order(tmp_path):
    (tmp_path / "plain.tsv").write_text("a\tone\tTitle\nb\ttwo\n")
    assert list(read_documents(tmp_path / "plain.tsv")) == [Document("a", "one", "Title"), Document("b", "two")]
    (tmp_path / "named.tsv").write_text("\n \ntext\tid\tlanguage\none\ta\ten\n")
    assert list(read_documents(tmp_path / "named.tsv")) == [Document("a", "one", "", {"language": "en"})]


def test_a_folder_gives_each_text_file_by_its_path(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.md").write_text("two", encoding="utf-8")
    (tmp_path / "a.TXT").write_bytes(b"one \xff\xfe end")
    (tmp_path / "c.pdf").write_bytes(b"%PDF")
    assert list(read_documents(tmp_path)) == [Document("a.TXT", "one \ufffd\ufffd end"), Document("sub/b.md", "two")]


def test_ids_of_files_have_no_blanks_and_differ_as_their_names_do(tmp_path):
    names = {
        "a b.txt": "a%20b.txt",
        "a%20b.txt": "a%2520b.txt",
        "c\u3000\u00a0d.txt": "c%E3%80%80%C2%A0d.txt",
        "100%.md": "100%25.md",
    }
    (tmp_path / "in here").mkdir()
    for name in names:
        (tmp_path / "in here" / name).write_text(name, encoding="utf-8")
    found = {document.text: document.document_id for document in read_documents(tmp_path)}
    assert found == {name: f"in%20here/{written}" for name, written in names.items()}


def test_files_of_other_kinds_are_counted_once(tmp_path, caplog):
    for name in ("a.txt", "b.pdf", "c.pdf", "d.HTML", "README"):
        (tmp_path / name).write_text("text")
    for _ in range(2):
        assert len(list(read_documents(tmp_path))) == 1
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}: 4 files of other kinds are left out (2 .pdf, 1 .html, 1 without an ending); read are .txt and .md."
    ]


def test_other_names_of_id_and_text_and_odd_values(tmp_path):
    rows = ['{"_id": 7, "contents": "x"}', '{"docid": "\\ud800", "text": "a\\ud800b"}']
    (tmp_path / "d.jsonl").write_text("\n".join(rows))
    assert list(read_documents(tmp_path / "d.jsonl")) == [Document("7", "x"), Document("?", "a?b")]
    row = '{"id": "1", "text": "x", "of\\ud800": "\\udfff", "all": ["\\ud800", {"\\ud800": 1}], "\\u00e9": "\\u00e9"}'
    (tmp_path / "m.jsonl").write_text(row)
    (document,) = read_documents(tmp_path / "m.jsonl")
    assert document.metadata == {"of?": "?", "all": ["?", {"?": 1}], "é": "é"}  # as JSON over a network can hold it
    table = pa.table({"id": [1], "text": ["x"], "day": [datetime.date(2020, 1, 2)], "score": [float("nan")]})
    pyarrow.parquet.write_table(table, tmp_path / "d.parquet")
    assert list(read_documents(tmp_path / "d.parquet")) == [Document("1", "x", "", {"day": "2020-01-02"})]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.jsonl", b'{"document_id": "a"}', r"line 1: expected a document with document_id"),
        ("d.jsonl", b'{"document_id": "a", "text": 3}', r"line 1: expected texts, got 3 as text"),
        ("d.jsonl", b'{"id": "", "text": "a"}', r"line 1: expected an id, got '' as id"),
        ("d.jsonl", b'{"id": {"a": 1}, "text": "a"}', r"line 1: expected an id, got \{'a': 1\} as id"),
        ("d.jsonl", b'{"id": true, "text": "a"}', r"line 1: expected an id, got True"),
        ("d.jsonl", b'{"id": "a", "text": "b", "n": [NaN]}', r"line 1, n: expected what JSON can hold"),
        ("d.jsonl", b'{"id": "a", "text": "b", "n": 1e999}', r"line 1, n: expected what JSON can hold"),
        ("d.jsonl", b'{"id": "a", "n": ' + b"1" * 5000 + b"}", r"d\.jsonl, line 1: expected one JSON object"),
        ("d.jsonl", b"\n" + b"[" * 100_000, r"d\.jsonl, line 2: expected one JSON object"),
        ("hub:", b"", r"hub:: expected a dataset's name"),
        ("d.jsonl", b'{"id": "a", "text": ""}\n{"id": "a", "text": ""}', r"line 2: document 'a' stands twice"),
        ("d.jsonl", b"[1]", r"line 1: expected one JSON object"),
        ("d.jsonl", b"\xff", r"d\.jsonl, line 1: expected text in UTF-8"),
        ("d.tsv", b"a\tb\tc\td", r"line 1: expected document_id, text, title with tabs between, got 4 cells"),
        ("d.parquet", b"PAR1 no", r"d\.parquet: expected a whole parquet file"),
        ("d.csv", b"", r"expected \.jsonl, \.tsv"),
        ("d.jsonl", b"\n \n", r"d\.jsonl: expected documents, got none\. Check that"),
        ("d.tsv", b"id\ttext\n", r"d\.tsv: expected documents, got none"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(read_documents(name if name == "hub:" else tmp_path / name))


def test_a_parquet_file_with_a_broken_page_is_named(tmp_path):
    table = pa.table({"id": [str(number) for number in range(3000)], "text": ["the sea"] * 3000})
    pyarrow.parquet.write_table(table, tmp_path / "d.parquet")
    content = bytearray((tmp_path / "d.parquet").read_bytes())
    content[4:40] = bytes(36)  # the first page's header and the beginning of what it holds
    (tmp_path / "d.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"d\.parquet: expected a whole parquet file"):
        list(read_documents(tmp_path / "d.parquet"))


def test_metadata_is_what_every_engine_and_a_server_can_write(tmp_path):
    row = '{"id": "a", "text": "b", "score": NaN, "half": "x\\ud800", "in": {"a\\ud800": ["\\udc00"]}, "k\\ud800": 1}'
    (tmp_path / "d.jsonl").write_text(row)
    metadata = {"half": "x?", "in": {"a?": ["?"]}, "k?": 1}
    assert list(read_documents(tmp_path / "d.jsonl")) == [Document("a", "b", "", metadata)]


def test_a_source_without_documents_is_refused_before_one_is_asked_for(tmp_path):
    pyarrow.parquet.write_table(pa.Table.from_pylist([], _schema()), tmp_path / "d.parquet")
    with pytest.raises(ValueError, match="expected documents, got none"):
        read_documents(tmp_path / "d.parquet")


def test_a_folder_without_texts_and_a_missing_file_are_named(tmp_path):
    with pytest.raises(ValueError, match="found none"):
        list(read_documents(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no\.jsonl"):
        read_documents(tmp_path / "no.jsonl")  # before a document is asked for, so that nothing is made in vain


def test_questions_come_from_json_lines_tsv_or_lines(tmp_path):
    (tmp_path / "q.jsonl").write_text('{"query_id": 1, "query": "who?"}\n{"_id": "b", "text": "誰?"}\n')
    (tmp_path / "q.tsv").write_text("1\twho?\nb\t誰?\n")
    (tmp_path / "q.txt").write_text("who?\n\n誰?\n")
    assert read_queries(tmp_path / "q.jsonl") == read_queries(tmp_path / "q.tsv") == {"1": "who?", "b": "誰?"}
    assert read_queries(tmp_path / "q.txt") == {"1": "who?", "3": "誰?"}
    (tmp_path / "q.jsonl").write_text('{"query_id": null, "id": 5, "query": null, "text": "who?"}\n')
    assert read_queries(tmp_path / "q.jsonl") == {"5": "who?"}
    (tmp_path / "q.jsonl").write_text('{"query_id": ["a"], "query": "who?"}\n')
    with pytest.raises(ValueError, match="line 1: expected query_id, a text or a number"):
        read_queries(tmp_path / "q.jsonl")
    for content, message in [("1\ta\n1\tb", "line 2: query '1' stands twice"), ("", "got none"), ("x", "1 cells")]:
        (tmp_path / "q.tsv").write_text(content)
        with pytest.raises(ValueError, match=message):
            read_queries(tmp_path / "q.tsv")


def test_what_systems_leave_behind_and_what_is_no_text_are_left_out_and_counted(tmp_path, caplog):
    for name in (
        "a.txt",
        "._a.txt",
        "__MACOSX/b.txt",
        ".ipynb_checkpoints/c.md",
        ".git/d.md",
        "e/.venv/f.txt",
        "e/g.md",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("The river crosses the city.")
    (tmp_path / "binary.txt").write_bytes(b"\x00\x05\x16\x07Mac OS X")
    assert [document.document_id for document in read_documents(str(tmp_path))] == ["a.txt", "e/g.md"]
    assert "6 files of other kinds are left out (5 hidden, 1 .txt)" in caplog.text


def test_tables_are_read_by_one_rule(tmp_path):
    (tmp_path / "q.tsv").write_text('query_id\tquery\n7\tWho built the "lighthouse"?\n8\t"He said ""why"""\n')
    assert read_queries(tmp_path / "q.tsv") == {"7": 'Who built the "lighthouse"?', "8": 'He said "why"'}
    (tmp_path / "d.tsv").write_text('id\ttext\ttitle\n1\t"He said ""Bond"" twice"\tA\n2\t"a" or "b"\t\n')
    assert [document.text for document in read_documents(str(tmp_path / "d.tsv"))] == [
        'He said "Bond" twice',
        '"a" or "b"',
    ]
    rows = "".join(json.dumps({"id": number, "text": "a"}) + "\n" for number in (1.0, 2, "3.0", 4.5))
    (tmp_path / "d.jsonl").write_text(rows)
    assert [document.document_id for document in read_documents(str(tmp_path / "d.jsonl"))] == ["1", "2", "3.0", "4.5"]
