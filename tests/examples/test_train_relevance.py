"""The script that trains by relevance runs in two processes, and README's snippet is a training on the sample."""

import json
import re
from pathlib import Path

import pytest
import torch

from drdecr.modeling_drdecr import DrDecrModel

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path / "student")
    return tmp_path


def assert_trained(folder, start):
    assert not torch.equal(DrDecrModel.from_pretrained(folder).linear.weight, start.linear.weight)


@pytest.mark.processes
def test_the_script_trains_in_two_processes(folder, tiny_model, run_python):
    rows = [
        {"query": f"b {word}", "english": f"the {word}", "positive": f"a {word} .", "negative_1": "the sea"}
        for word in ("city", "river", "king", "paris")
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in 4 * rows))
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", 2]
    names = ["--model", folder / "student", "--teacher", folder / "student", "--dataset", folder / "rows.jsonl"]
    settings = ["--output_dir", folder / "out", "--num_train_epochs", 1, "--per_device_train_batch_size", 4]
    settings += ["--gradient_accumulation_steps", 1, "--learning_rate", 0.01, "--temperature", 0.1, "--use_cpu", "true"]
    script = ROOT / "examples" / "train_relevance.py"
    run_python(*launch, script, *names, *settings, env={"ACCELERATE_USE_CPU": "true"}, cwd=folder)
    assert_trained(folder / "out", tiny_model)
    state = json.loads(next((folder / "out").glob("checkpoint-*/trainer_state.json")).read_text())
    assert state["global_step"] == 2  # 16 rows in two processes of 4


def test_readmes_snippet_trains_on_the_sample(folder, tiny_model, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (snippet,) = (block for block in blocks if "trainer.train()" in block)
    assert len(snippet.splitlines()) <= 13
    monkeypatch.chdir(folder)
    code = snippet.replace("runs/demo/teacher/model", str(folder / "student"))
    code = code.replace('relevance_over="batch"', 'relevance_over="batch", use_cpu=True, save_strategy="no"')
    variables = {}
    exec(code, variables)
    trainer = variables["trainer"]
    assert trainer.state.epoch == 1
    assert trainer.state.global_step > 1
    assert not torch.equal(trainer.model.linear.weight, tiny_model.linear.weight)
