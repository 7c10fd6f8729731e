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
    ("line", "message"),
    [
        ("q1 Q0 a 1 2.0", "run, line 2: expected `query_id Q0 document_id rank score tag`, got 'q1 Q0 a 1 2.0'"),
        ("q1 Q0 a 1 high tag", "run, line 2: expected a number, got 'high'"),
        ("q1 Q0 a 1 nan tag", "run, line 2: expected a finite number, got 'nan'"),
        ("q0 Q0 a 1 2.0 tag", "run, line 2: 'a' stands twice under 'q0'"),
    ],
)
def test_a_broken_line_is_named(line, message, tmp_path):
    (tmp_path / "run").write_text(f"q0 Q0 a 1 2.5 tag\n{line}\n")
    with pytest.raises(ValueError, match=message):
        read_run(tmp_path / "run")


def test_what_the_form_cannot_hold_is_refused_and_the_old_file_stays(tmp_path):
    write_run(tmp_path / "run", RUN, "tag")
    before = (tmp_path / "run").read_text()
    for run, tag in (({"q 1": {"a": 1.0}}, "tag"), ({"q1": {"": 1.0}}, "tag"), (RUN, "my tag")):
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
