"""A saved folder opens where the package is absent."""

from pathlib import Path

import pytest
import torch

from drdecr.modeling_drdecr import DrDecrModel

QUESTIONS = ["what is the capital of france ?", "where is the sea"]
PASSAGES = ["paris is the capital .", "the king , in a city", ""]

SCRIPT = f"""
import sys
import torch
from transformers import AutoModel, AutoProcessor

folder, again, result = sys.argv[1:]
for place in (folder, again):
    model = AutoModel.from_pretrained(place, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(place, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    assert type(processor).__module__.startswith("transformers_modules."), type(processor)
    queries, documents = model.encode_queries({QUESTIONS!r}), model.encode_documents({PASSAGES!r})
    if place == folder:
        tensors = dict(processor.process_documents({PASSAGES!r}))
        torch.save([queries, documents, model.score(queries, documents), tensors], result)
        model.save_pretrained(again)
    else:
        first = torch.load(result)
        assert all(map(torch.equal, first[0] + first[1], queries + documents))
try:
    import drdecr
except ImportError:
    print("the package was absent")
"""


@pytest.mark.processes
def test_a_folder_and_its_copy_open_where_only_torch_and_transformers_are(
    tiny_model, tiny_processor, run_bare, tmp_path: Path
):
    folder, again, result = tmp_path / "model", tmp_path / "again", tmp_path / "result.pt"
    tiny_model.save_pretrained(folder)
    home = {"HF_HOME": str(tmp_path / "home"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = run_bare(SCRIPT, folder, again, result, env=home, cwd=tmp_path)
    assert "the package was absent" in done.stdout

    queries, documents, scores, tensors = torch.load(result)
    here = tiny_model.encode_queries(QUESTIONS), tiny_model.encode_documents(PASSAGES)
    assert all(map(torch.equal, queries + documents, here[0] + here[1]))
    assert torch.equal(scores, tiny_model.score(*here))
    expected = tiny_processor.process_documents(PASSAGES)
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)

    assert {path.name for path in again.iterdir()} == {path.name for path in folder.iterdir()}
    for path in folder.glob("*_drdecr.py"):
        assert path.read_bytes() == (again / path.name).read_bytes()
    copy = DrDecrModel.from_pretrained(again)
    assert all(map(torch.equal, copy.encode_queries(QUESTIONS), here[0]))
