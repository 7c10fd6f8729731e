"""`drdecr demo`: the whole method on the sample data, from a public encoder to answers in eight languages."""

import json
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

from rich.console import Console
from rich.table import Table

from drdecr.data.offline.sample import read_sample_questions

from .config import parse_overrides
from .pipeline import load_pipeline, run_pipeline

# Run where `drdecr` cannot be imported, as on a machine that never heard of it.
FRESH_PROCESS = """
import json, sys
sys.modules["drdecr"] = None
from transformers import AutoModel
task = json.load(sys.stdin)
model = AutoModel.from_pretrained(task["model"], trust_remote_code=True)
scores = model.score(model.encode_queries(task["questions"]), model.encode_documents(task["passages"]))
json.dump({"class": str(type(model)), "best": scores.argmax(dim=1).tolist()}, sys.stdout)
"""


MINUTES = 11
"""Minutes of the whole demo on two CPU cores (docs/results.md)."""

QUICK_MINUTES = 5
"""With two steps a stage: a rough figure, since `--quick` took some 0.4 of the whole's time on a machine that was shared."""


def run_demo(output: str | None = None, quick: bool = False, overrides: list[str] | None = None) -> None:
    """Run the demo's pipeline, open its student in a fresh process, and say what to do next.

    Args:
        output: folder; default: the pipeline's own, `runs/demo`.
        quick: two steps a stage, to see that everything works (the figures then mean nothing).
        overrides: `--key value` for every stage.
    """
    console = Console(stderr=True)
    pipeline = load_pipeline(str(files("drdecr.recipes") / "demo"), output or ("runs/demo-quick" if quick else None))
    minutes = QUICK_MINUTES if quick else MINUTES
    counts = f"{len(pipeline.stages)} stages, then {len(pipeline.systems)} systems to measure"
    console.print(f"{counts}: about {minutes} minutes on two CPU cores; what is done already is not done again.")
    given = parse_overrides(overrides or [])
    quick_settings = {"max_steps": 2, "eval_steps": 2, "gradient_accumulation_steps": 1} if quick else {}
    settings = [f"--{name}={value}" for name, value in quick_settings.items() if name not in given]
    student = run_pipeline(pipeline, [*settings, *(overrides or [])], console)
    console.rule("the student, opened by AutoModel in a process without this package", align="left")
    show_answers(student, console)
    show_next(Path(pipeline.output), student, console)


def show_answers(student: Path, console: Console) -> None:
    """Ask the saved student one test question in each language, in a process that cannot import this package."""
    sample = read_sample_questions("test", languages=["en", "ar", "bn", "fi", "ja", "ko", "ru", "te"])
    # Another question for each language, so that the answers differ.
    codes = list(dict.fromkeys(sample.questions["language"]))
    rows = {code: [row for row in sample.questions if row["language"] == code] for code in codes}
    questions = [rows[code][5 * number % len(rows[code])] for number, code in enumerate(codes)]
    ids = list(sample.passages)
    answer = ask_fresh_process(student, [row["query"] for row in questions], list(sample.passages.values()))
    table = Table(show_edge=False)
    for heading in ("language", "question", "best passage", "right"):
        table.add_column(heading)
    for row, best in zip(questions, answer["best"], strict=True):
        title = sample.passages[ids[best]].split(". ")[0]
        table.add_row(row["language"], row["query"], title, "yes" if ids[best] in row["document_ids"] else "no")
    console.print(table)


def ask_fresh_process(student: Path, questions: list[str], passages: list[str]) -> dict:
    """Load the checkpoint with transformers alone and return the index of each question's best passage.

    Raises:
        RuntimeError: with the process's own words, if the checkpoint does not open.
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    task = json.dumps({"model": str(student), "questions": questions, "passages": passages})
    done = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS], input=task, capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        raise RuntimeError(f"The checkpoint in {student} did not open in a fresh process:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def show_next(output: Path, student: Path, console: Console) -> None:
    """Print the paths of what was made, and the next command."""
    console.rule("made", align="left")
    for name, path in (
        ("student, with its model card", student),
        ("report, for a browser", output / "report.html"),
        ("table", output / "results.md"),
        ("chart", output / "results.png"),
        ("loss curves", output / "curves-*.png"),
    ):
        console.print(f"{name:30} {path}")
    console.print(f'\nnext: drdecr search {student} "Kuka rakensi majakan?" "灯台を建てたのは誰ですか。"')
    console.print(f"or, in the browser: drdecr page {student} --teacher {output}/teacher/model")
