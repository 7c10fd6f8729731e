"""The recipes and rows that README.md shows run as they stand, but for the encoder and the number of steps."""

import json
import re
from pathlib import Path

from drdecr.runs.recipe import load_recipe
from drdecr.runs.stage import run_stage

README = Path(__file__).parents[2] / "README.md"


def test_the_recipes_train_on_rows_like_those_shown(bare_encoder, tmp_path, monkeypatch):
    text = README.read_text(encoding="utf-8").split("## Train on your own data")[1]
    teacher, student = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    question, passage = (json.loads(line) for line in re.findall(r"\.jsonl +(\{.*\})", text))
    monkeypatch.chdir(tmp_path)
    rows = [
        {**question, "query_id": str(n), "query": f"z {n}?", "english": f"the {n}?", "document_ids": [f"p{n}"]}
        for n in range(12)
    ]
    passages = [{**passage, "document_id": f"p{n}", "text": f"king {n}"} for n in range(12)]
    for name, content in (("questions", rows[:10]), ("dev", rows[10:]), ("passages", passages)):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    Path("fi-en.tsv").write_text("".join(f"z {letter}\tthe {letter}\n" for letter in "bcdefghijklm"))
    assert teacher.count("intfloat/multilingual-e5-small") == teacher.count("384") == 1
    Path("teacher.yaml").write_text(
        teacher.replace("intfloat/multilingual-e5-small", bare_encoder).replace("384", "16")
    )
    Path("student.yaml").write_text(student)
    run_stage(load_recipe("teacher.yaml"))
    short = ["--max_steps", "2", "--per_device_train_batch_size", "2", "--data.num_candidates", "3"]
    assert run_stage(load_recipe("student.yaml", short)) == Path("runs/mine/student/model")
    run = json.loads(Path("runs/mine/student/run.json").read_text())
    assert run["rows"] == {"questions": 8}  # a fifth is cut off for the loss terms' evaluation
    assert run["best_checkpoint"]
