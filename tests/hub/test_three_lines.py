"""What README.md and docs/hub.md tell a user to type runs as it stands, but for the names."""

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OTHERS = ["drdecr", "accelerate", "datasets", "evaluate", "peft", "scipy", "sentence_transformers", "sklearn", "pandas"]
TELL = f"""
import importlib.util, json
found = [name for name in {OTHERS} if importlib.util.find_spec(name)]
print(json.dumps([type(model).__module__, list(scores.shape), scores.tolist(), found]))
"""


def first_block(file: str, heading: str) -> str:
    """Return the first Python block below a heading."""
    below = (ROOT / file).read_text(encoding="utf-8").split(f"\n## {heading}\n")[1]
    return re.search(r"```python\n(.*?)```", below, re.DOTALL).group(1)


@pytest.fixture
def commit(hub, tiny_model):
    tiny_model.push_to_hub("alice/tiny")
    return hub.api().model_info("alice/tiny").sha


def texts(code, method):
    return ast.literal_eval(re.search(rf"{method}\((\[.*?\])\)", code).group(1))


def swapped(code, old, new):
    assert code.count(f'"{old}"') == 1
    return code.replace(f'"{old}"', f'"{new}"')


@pytest.mark.processes
def test_the_readme_uses_a_student(hub, commit, tiny_model, run_python, tmp_path):
    code = first_block("README.md", "Use a student")
    ready = swapped(code, "runs/demo/relevance/model", "alice/tiny") + TELL
    done = run_python("-W", "error::SyntaxWarning", "-c", ready, env=hub.environment, cwd=tmp_path)
    module, shape, scores, _ = json.loads(done.stdout.splitlines()[-1])
    assert module == "drdecr.modeling_drdecr.modeling_drdecr"
    assert shape == [2, 2]
    assert_scores(scores, tiny_model, code)


@pytest.mark.processes
def test_the_hub_page_uses_a_student_where_only_torch_and_transformers_are(hub, commit, tiny_model, run_bare, tmp_path):
    code = first_block("docs/hub.md", "Use one")
    ready = swapped(swapped(code, "user/student", "alice/tiny"), "COMMIT", commit)
    done = run_bare(ready + TELL, env=hub.environment, cwd=tmp_path)
    module, shape, scores, others = json.loads(done.stdout.splitlines()[-1])
    assert others == []
    assert module.startswith("transformers_modules.")
    assert shape == [1, 2]
    assert_scores(scores, tiny_model, code)
    assert len([line for line in code.splitlines() if line.strip()]) == 3  # three lines, as promised


def assert_scores(scores, model, code):
    expected = model.score(
        model.encode_queries(texts(code, "encode_queries")), model.encode_documents(texts(code, "encode_documents"))
    )
    assert [pytest.approx(row, abs=1e-4) for row in expected.tolist()] == scores
