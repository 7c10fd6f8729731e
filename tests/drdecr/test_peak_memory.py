"""The peak of memory that a stage is said to have is its own, and to ask for it stops nothing."""

import json
import logging
import resource
import sys

import numpy as np
import pytest
import torch
import yaml

from drdecr.data import provenance as peak_memory
from drdecr.data.prepare.prepare import PrepareRecipe, prepare
from drdecr.data.provenance import PeakMemory, in_words
from drdecr.runs.pipeline import cost_of
from drdecr.runs.stage import run_stage

MEGABYTES = 200
STAGE = f"""
import json, sys
import numpy as np
from drdecr.data.provenance import PeakMemory
memory = PeakMemory()
if sys.argv[1] == "dear":
    held = np.ones({MEGABYTES} * 125_000)  # 8 bytes each
    del held
print(json.dumps(memory.peaks))
"""


def hold_and_let_go(megabytes: int) -> None:
    held = np.ones(megabytes * 125_000)
    del held


@pytest.fixture
def forgetting() -> None:
    if not peak_memory.forget_resident_peak():
        pytest.skip("this system does not forget a process's peak")


@pytest.mark.processes
def test_a_stage_of_200_megabytes_tells_200_more_than_one_without(run_python):
    cheap, dear = (json.loads(run_python("-c", STAGE, kind).stdout) for kind in ("cheap", "dear"))
    (name,) = cheap
    assert MEGABYTES - 10 < dear[name] - cheap[name] < MEGABYTES + 40


def test_a_stage_is_not_charged_with_what_the_process_held_before(forgetting):
    before = PeakMemory()
    hold_and_let_go(MEGABYTES)
    after = PeakMemory()
    assert before.peaks["peak_memory_mb"] - after.peaks["peak_memory_mb"] > MEGABYTES - 40
    hold_and_let_go(MEGABYTES)
    assert after.peaks["peak_memory_mb"] == pytest.approx(before.peaks["peak_memory_mb"], abs=40)


def test_a_stage_within_another_takes_nothing_from_its_peak(forgetting):
    whole = PeakMemory()
    hold_and_let_go(MEGABYTES)
    within = PeakMemory()
    hold_and_let_go(MEGABYTES // 4)
    assert whole.peaks["peak_memory_mb"] - within.peaks["peak_memory_mb"] > MEGABYTES / 2


def test_where_the_system_forgets_nothing_it_is_called_the_process_s_peak(monkeypatch, tmp_path):
    monkeypatch.setattr(peak_memory, "CLEAR", tmp_path / "none" / "clear_refs")
    monkeypatch.setattr(peak_memory, "STATUS", tmp_path / "none" / "status")
    found = PeakMemory().peaks
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    assert list(found) == ["peak_process_memory_mb"]
    assert found["peak_process_memory_mb"] == pytest.approx(most, rel=0.1)
    assert in_words(found).startswith("peak memory of the process so far ")


def test_a_system_that_takes_the_order_and_does_nothing_is_not_believed(monkeypatch, tmp_path):
    for name in ("CLEAR", "STATUS"):
        monkeypatch.setattr(peak_memory, name, tmp_path / name)
    (tmp_path / "STATUS").write_text("Name:\tpython\nVmHWM:\t  900000 kB\nVmRSS:\t  100000 kB\n")
    assert PeakMemory().peaks == {"peak_process_memory_mb": 921.6}


def test_where_nobody_tells_it_is_left_out(monkeypatch, tmp_path):
    for name in ("CLEAR", "STATUS"):
        monkeypatch.setattr(peak_memory, name, tmp_path / "none" / name)
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    assert PeakMemory().peaks == {}
    assert in_words({}) == ""


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_tensors_of_the_stage_count():
    torch.zeros(1, device="cuda")
    before = PeakMemory()
    held = torch.zeros(MEGABYTES, 250_000, device="cuda")  # 4 bytes each
    del held
    after = PeakMemory()
    assert MEGABYTES <= before.peaks["peak_gpu_memory_mb"] < MEGABYTES + 50
    assert after.peaks.get("peak_gpu_memory_mb", 0.0) < MEGABYTES / 2


def test_a_failing_gpu_stops_nothing(monkeypatch):
    def fail() -> int:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", fail)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", fail)
    assert "peak_gpu_memory_mb" not in PeakMemory().peaks


def test_a_resumed_run_keeps_the_highest_peak_of_its_sessions(recipe_of, start, data, kill_in_step, monkeypatch):
    monkeypatch.setattr(peak_memory, "forget_resident_peak", lambda: True)
    found = {"format": "jsonl", "questions": data["train"]["questions"], "passages": data["train"]["passages"]}
    recipe = recipe_of(
        "killed",
        stage="contrastive",
        model=start,
        data={"questions": [found], "num_candidates": 2},
        training={"max_steps": 4, "save_steps": 2},
    )
    kill_in_step(3)
    monkeypatch.setattr(peak_memory, "resident_peak", lambda: 900_000_000)
    with pytest.raises(RuntimeError, match="killed"):
        run_stage(recipe)
    monkeypatch.setattr(peak_memory, "resident_peak", lambda: 300_000_000)
    run_stage(recipe)
    run = json.loads((recipe.folder / "run.json").read_text())
    assert run["peak_memory_mb"] == 900.0
    assert cost_of(recipe) == f"{run['seconds']} s, peak memory 900 MB"


def test_every_command_of_the_data_path_tells_its_peak(start, data, tmp_path, call, monkeypatch, caplog):
    monkeypatch.setattr(peak_memory, "forget_resident_peak", lambda: True)
    monkeypatch.setattr(peak_memory, "resident_peak", lambda: 1_234_000_000)
    told = "peak memory 1,234 MB"
    model = tmp_path / "runs" / "start" / "model"
    code, said, error = call("index", "build", model, data["test"]["passages"], tmp_path / "index")
    assert code == 0, error
    assert said.rstrip().endswith(told)
    code, said, error = call("index", "compress", tmp_path / "index", tmp_path / "small", "--codec", "int8")
    assert code == 0, error
    assert said.rstrip().endswith(told)
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({"test": [data["test"]]}))
    code, said, error = call("eval", "model", model, tmp_path / "test.yaml", "--output", tmp_path / "result.json")
    assert code == 0, error
    assert said.splitlines()[-1] == told
    assert json.loads((tmp_path / "result.json").read_text())["metadata"]["peak_memory_mb"] == 1234.0

    caplog.set_level(logging.INFO)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"questions": [data["train"]]}))
    words = ("--method", "model", "--reader", model, "--teacher", model, "--max_share", 1.0, "--num_negatives", 2)
    code, _, error = call("data", "mine", tmp_path / "mine.yaml", tmp_path / "mined", *words)
    assert code == 0, error
    assert f"{tmp_path / 'mined'}: {told}." in caplog.messages
    code, _, error = call("data", "annotate", tmp_path / "mined", tmp_path / "annotated", "--teacher", model)
    assert code == 0, error
    assert f"{tmp_path / 'annotated'}: {told}." in caplog.messages
    entry = {"format": "tsv", "path": data["parallel"]["path"], "languages": ["xx"]}
    monkeypatch.setenv("DRDECR_DATA", str(tmp_path))
    prepare(PrepareRecipe([{"name_of_source": "words", **entry}]), tmp_path / "prepared")
    assert f"{tmp_path / 'prepared'}: {told}." in caplog.messages
