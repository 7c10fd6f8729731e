"""What README.md and docs/hub.md tell a user to type runs as it stands, but for the names."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OTHERS = ["drdecr", "accelerate", "datasets", "evaluate", "peft", "scipy", "sentence_transformers", "sklearn", "pandas"]
ABSENT = f"import sys\nsys.modules.update(dict.fromkeys({OTHERS}))  # any import of them fails from here on\n"
TELL = "\nimport json\nprint(json.dumps([type(model).__module__, list(scores.shape), scores.tolist()]))\n"


def first_block(file: str, heading: str) -> str:
    """Return the first Python block below a heading."""
    below = (ROOT / file).read_text(encoding="utf-8").split(f"\n## {heading}\n")[1]
    return re.search(r"```python\n(.*?)```", below, re.DOTALL).group(1)


def run(code, hub, folder):
    """Run code in a fresh process; return its last line."""
    command = [sys.executable, "-W", "error::SyntaxWarning", "-c", code]
    done = subprocess.run(
        command, cwd=folder, env=hub.environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def commit(hub, tiny_model):
    tiny_model.push_to_hub("alice/tiny")
    return hub.api().model_info("alice/tiny").sha


def texts(code, method):
    return ast.literal_eval(re.search(rf"{method}\((\[.*?\])\)", code).group(1))


def swapped(code, old, new):
    assert code.count(f'"{old}"') == 1
    return code.replace(f'"{old}"', f'"{new}"')


def test_the_readme_uses_a_student(hub, commit, tiny_model, tmp_path):
    code = first_block("README.md", "Use a student")
    module, shape, scores = run(swapped(code, "runs/demo/relevance/model", "alice/tiny") + TELL, hub, tmp_path)
    assert module == "drdecr.modeling_drdecr.modeling_drdecr"
    assert shape == [2, 2]
    assert_scores(scores, tiny_model, code)


def test_the_hub_page_uses_a_student_where_only_torch_and_transformers_are(hub, commit, tiny_model, tmp_path):
    code = first_block("docs/hub.md", "Use one")
    ready = swapped(swapped(code, "user/student", "alice/tiny"), "COMMIT", commit)
    module, shape, scores = run(ABSENT + ready + TELL, hub, tmp_path)
    assert module.startswith("transformers_modules.")
    assert shape == [1, 2]
    assert_scores(scores, tiny_model, code)
    assert len([line for line in code.splitlines() if line.strip()]) == 3  # three lines, as promised


def assert_scores(scores, model, code):
    expected = model.score(
        model.encode_queries(texts(code, "encode_queries")), model.encode_documents(texts(code, "encode_documents"))
    )
    assert [pytest.approx(row, abs=1e-4) for row in expected.tolist()] == scores
