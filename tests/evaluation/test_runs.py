"""TREC files: what is written is what ir_measures and we read, and broken lines are named."""

import ir_measures
import numpy as np
import pytest

from drdecr.evaluation.metrics import per_query_scores
from drdecr.evaluation.runs import read_qrels, read_run, write_qrels, write_run

RUN = {"q1": {"a": 0.1, "b": 2.5, "c": 0.1 + 0.2}, "q2": {"b": -1.0, "a": -1.0}}
QRELS = {"q1": {"a": 1, "c": 2}, "q2": {"b": 0, "a": 1}}


def test_a_run_and_qrels_come_back_whole(tmp_path):
    assert read_run(write_run(tmp_path / "run", RUN, "tag")) == RUN  # to the last bit of 0.1 + 0.2
    assert read_qrels(write_qrels(tmp_path / "qrels", QRELS)) == QRELS


def test_a_byte_order_mark_is_no_part_of_an_id(tmp_path):
    for file in (write_run(tmp_path / "run", RUN, "tag"), write_qrels(tmp_path / "qrels", QRELS)):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert read_run(tmp_path / "run") == RUN
    assert read_qrels(tmp_path / "qrels") == QRELS


def test_numbers_of_other_libraries_are_written_as_numbers(tmp_path):
    run = {"q1": {"a": np.float32(0.5)}}
    assert read_run(write_run(tmp_path / "run", run, "tag")) == {"q1": {"a": 0.5}}
    assert read_qrels(write_qrels(tmp_path / "qrels", {"q1": {"a": True}})) == {"q1": {"a": 1}}


def test_ranks_follow_the_scores_and_only_the_best_are_kept(tmp_path):
    lines = write_run(tmp_path / "run", RUN, "tag", top_k=2).read_text().splitlines()
    assert [line.split()[:4] for line in lines] == [
        ["q1", "Q0", "b", "1"],
        ["q1", "Q0", "c", "2"],
        ["q2", "Q0", "b", "1"],  # of equal scores the higher id first, as trec_eval has it
        ["q2", "Q0", "a", "2"],
    ]


def test_another_library_reads_the_same_scores_from_the_files(tmp_path):
    run, qrels = write_run(tmp_path / "run", RUN, "tag"), write_qrels(tmp_path / "qrels", QRELS)
    found = ir_measures.iter_calc(
        [ir_measures.nDCG @ 10], ir_measures.read_trec_qrels(str(qrels)), ir_measures.read_trec_run(str(run))
    )
    expected = per_query_scores(RUN, QRELS, ["nDCG@10"])["nDCG@10"]
    assert {row.query_id: row.value for row in found}["q1"] == pytest.approx(expected["q1"])


@pytest.mark.parametrize(
    ("read", "line", "message"),
    [
        (read_run, "q1 Q0 a 1 2.0", "line 2: expected `query_id Q0 document_id rank score tag`, got 'q1 Q0 a 1 2.0'"),
        (read_run, "q1 Q0 a 1 high tag", "line 2: expected a number as score, got 'high'"),
        (read_run, "q1 Q0 a 1 nan tag", "line 2: expected a finite number, got 'nan'"),
        (read_run, "q1 Q0 a 1 1e999 tag", "line 2: expected a finite number, got '1e999'"),
        (read_run, "q0 Q0 a 1 2.0 tag", "line 2: 'a' stands twice under 'q0'"),
        (read_run, "q1 Q0 a\0 1 2.0 tag", r"line 2: id: .* got 'a\\x00'"),
        (read_run, b"q1 Q0 caf\xe9 1 2.0 tag", "line 2: expected text in UTF-8"),
        (read_qrels, "q0 0 a 1", "line 2: 'a' stands twice under 'q0'"),
        (read_qrels, "q1 0 a yes", "line 2: expected a whole number from 0 to 1,000,000 as relevance, got 'yes'"),
        (read_qrels, "q1 0 a 1.5", "line 2: expected a whole number .* got '1.5'"),
        (read_qrels, "q1 0 a nan", "line 2: expected a whole number .* got 'nan'"),
        (read_qrels, "q1 0 a 9999999999", "line 2: expected a whole number .* got '9999999999'"),
        (read_qrels, b"q1 0 caf\xe9 1", "line 2: expected text in UTF-8"),
    ],
)
def test_a_broken_line_is_named(read, line, message, tmp_path):
    first = b"q0 Q0 a 1 2.5 tag\n" if read is read_run else b"q0 0 a 1\n"
    (tmp_path / "file").write_bytes(first + (line if isinstance(line, bytes) else line.encode()) + b"\n")
    with pytest.raises(ValueError, match=f"file, {message}"):
        read(tmp_path / "file")


def test_grades_are_whole_numbers_from_0(tmp_path):
    (tmp_path / "qrels").write_text("q 0 a -2\nq 0 b 2.0\nq 0 c 3\n")
    assert read_qrels(tmp_path / "qrels") == {"q": {"a": 0, "b": 2, "c": 3}}


def test_what_the_form_cannot_hold_is_refused_and_the_old_file_stays(tmp_path):
    write_run(tmp_path / "run", RUN, "tag")
    before = (tmp_path / "run").read_text()
    for run, tag in (({"q 1": {"a": 1.0}}, "t"), ({"q1": {"": 1.0}}, "t"), ({"q": {"a\0": 1.0}}, "t"), (RUN, "my tag")):
        with pytest.raises(ValueError, match="without blanks"):
            write_run(tmp_path / "run", run, tag)
    with pytest.raises(ValueError, match="expected a finite score, got nan"):
        write_run(tmp_path / "run", {"q1": {"a": float("nan")}}, "tag")
    with pytest.raises(FileNotFoundError, match=r"Make .*nowhere first"):
        write_run(tmp_path / "nowhere" / "run", RUN, "tag")
    assert (tmp_path / "run").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ValueError, match="got none"):
        read_qrels(tmp_path / "empty")
