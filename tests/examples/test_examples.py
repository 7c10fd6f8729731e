"""The script and the notebook run from end to end, push included, on a tiny student and the tests' Hub."""

import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import nbformat
import pytest
import torch
from local_hub import LocalHub
from nbclient import NotebookClient
from peft import PeftModel

from drdecr.modeling_drdecr import DrDecrModel

EXAMPLES = Path(__file__).parents[2] / "examples"
LANGUAGES = ["fi", "ru"]


@pytest.fixture
def base(hub: LocalHub, tiny_model: DrDecrModel) -> str:
    """The Hub name of a student."""
    tiny_model.push_to_hub("alice/student")
    return "alice/student"


@pytest.fixture
def folder(tiny_model: DrDecrModel, tmp_path: Path) -> str:
    """The folder of the same student."""
    tiny_model.save_pretrained(tmp_path / "student")
    return str(tmp_path / "student")


@pytest.fixture
def run_script(hub: LocalHub, run_python: Callable[..., CompletedProcess[str]], tmp_path: Path) -> Callable[..., str]:
    """`run_script(*arguments)` returns what the script prints."""
    start = (EXAMPLES / "search_and_adapt.py", "--languages", *LANGUAGES)
    return lambda *arguments: run_python(*start, *arguments, cwd=tmp_path, env=hub.environment).stdout


def run_notebook(hub: LocalHub, where: Path, monkeypatch: pytest.MonkeyPatch, **variables: object) -> str:
    """Run the notebook with other values in its first cell; return what it printed."""
    notebook = nbformat.read(EXAMPLES / "search_and_adapt.ipynb", as_version=4)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    names = [line.split(" = ")[0] for line in first.source.splitlines()]
    assert set(variables) <= set(names), names
    first.source += "".join(f"\n{name} = {value!r}" for name, value in variables.items())
    for name, value in hub.environment.items():  # the kernel's process takes the environment of this one
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("IPYTHONDIR", str(where / "ipython"))
    NotebookClient(notebook, timeout=280, kernel_name="python3", resources={"metadata": {"path": str(where)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.text for output in outputs if output.get("name") == "stdout")


def assert_adapted(model: PeftModel | DrDecrModel, base: str) -> None:
    """The model reads otherwise than its base, so that something was learnt and arrived."""
    question = ["what is the capital"]
    ours, theirs = model.encode_queries(question)[0], DrDecrModel.from_pretrained(base).encode_queries(question)[0]
    assert ours.shape == theirs.shape
    assert not torch.allclose(ours, theirs, atol=1e-6)


def assert_told(printed: str) -> None:
    """48 questions of the sample's second split in two languages: searched, reranked, measured before and after."""
    assert sorted(re.findall(r"was (\d):", printed)) == ["1", "2", "3", "4", "5"]
    assert "MRR@10 of 96 questions: " in printed
    assert "after 2 steps" in printed


@pytest.mark.processes
def test_the_script_pushes_an_adapter_of_a_student_on_the_hub(hub, base, run_script, tmp_path):
    pushing = ["--steps", "2", "--output", str(tmp_path / "out"), "--repository", "alice/adapter"]
    assert_told(run_script("--model", base, *pushing))
    assert hub.api().model_info("alice/adapter").private
    assert "model.safetensors" not in hub.files("alice/adapter")
    pushed = PeftModel.from_pretrained(DrDecrModel.from_pretrained(base), "alice/adapter")
    kept = PeftModel.from_pretrained(DrDecrModel.from_pretrained(base), str(tmp_path / "out" / "adapter"))
    assert_adapted(pushed, base)
    assert torch.equal(pushed.encode_queries(["the sea"])[0], kept.encode_queries(["the sea"])[0])


@pytest.mark.processes
def test_the_script_pushes_a_whole_model_of_a_student_in_a_folder(hub, folder, run_script):
    pushing = ["--steps", "2", "--output", "out", "--repository", "alice/whole"]
    assert_told(run_script("--model", folder, *pushing))
    assert_adapted(DrDecrModel.from_pretrained("alice/whole"), folder)


@pytest.mark.processes
def test_the_notebook_goes_the_same_way(hub, base, tmp_path, monkeypatch):
    settings = {"steps": 2, "languages": LANGUAGES, "repository": "alice/adapter"}
    assert_told(run_notebook(hub, tmp_path, monkeypatch, model_name=base, output=str(tmp_path / "out"), **settings))
    assert_adapted(PeftModel.from_pretrained(DrDecrModel.from_pretrained(base), "alice/adapter"), base)


def test_the_notebook_is_kept_without_outputs():
    notebook = nbformat.read(EXAMPLES / "search_and_adapt.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert not [cell for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")]
