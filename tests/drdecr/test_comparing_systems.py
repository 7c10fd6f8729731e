"""`drdecr eval systems`: two steps and one on the same questions, and what each part costs."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from drdecr.data.teacher import translate as translating
from drdecr.data.teacher.translation_store import Engine, Translation
from drdecr.evaluation.runs import read_run
from drdecr.evaluation.systems import LatencyTimer, SystemsSettings, compare_systems
from drdecr.runs.config import load_settings

from .test_translating import Words


class Dictionary(Words):
    """Knows all questions of the test set, and takes two hundredths of a second for each."""

    def __init__(self) -> None:
        self.engine = Engine("dictionary", "1")

    def translate(self, texts, source, target="en"):
        assert (source, target) == ("xx", "en")
        time.sleep(0.02 * len(texts))
        return [Translation(f"what is the city {text.split()[1]}") for text in texts]


@pytest.fixture
def settings(tmp_path, data, start, recipe_of, monkeypatch):
    monkeypatch.setitem(translating.ENGINES, "apertium", Dictionary)
    lines = Path(data["test"]["questions"]).read_text().splitlines(keepends=True)
    (tmp_path / "xx.jsonl").write_text("".join(line for line in lines if json.loads(line)["language"] == "xx"))
    model = str(tmp_path / "runs" / "start" / "model")
    content = {
        "collection": "letters",
        "test": [{**data["test"], "questions": str(tmp_path / "xx.jsonl")}],
        "systems": [
            {"label": "two steps", "model": model, "translator": {"engine": "apertium", "bytes": 1_000_000}},
            {"label": "as asked", "model": model},
            {"label": "human English", "model": model, "reads": "english"},
        ],
        "timed": 2,
        "price": 3.6,
    }
    path = tmp_path / "systems.yaml"

    def write(**changes):
        path.write_text(yaml.safe_dump({**content, **changes}))
        return path

    return write


def test_the_table_has_quality_latency_and_cost_of_every_system(settings, call, tmp_path):
    code, output, errors = call("eval", "systems", settings(), "--output", tmp_path / "out")
    assert code == 0, errors
    assert "systems.md" in output
    content = json.loads((tmp_path / "out" / "systems.json").read_text())
    two, one, english = (content["systems"][name] for name in ("two steps", "as asked", "human English"))
    assert two["scores"] == english["scores"]  # the translation is the human one
    assert two["gain"] is None
    assert english["gain"]["mean"] == 0
    assert list(two["wall_seconds"]) == ["translate", "encode", "search", "total"]
    assert list(one["wall_seconds"]) == ["encode", "search", "total"]
    assert all(len(values) == 2 for values in two["wall_seconds"].values())
    assert min(two["wall_seconds"]["translate"]) >= 0.02
    for row in (two, one):
        parts = [values for name, values in row["wall_seconds"].items() if name != "total"]
        assert row["wall_seconds"]["total"] == pytest.approx([sum(values) for values in zip(*parts, strict=True)])
    assert two["bytes"] == one["bytes"] + 1_000_000
    runs = {name: read_run(tmp_path / "out" / f"{name}.run") for name in ("two-steps", "human-english")}
    assert runs["two-steps"] == runs["human-english"]
    table = (tmp_path / "out" / "systems.md").read_text()
    cells = next(line for line in table.splitlines() if line.startswith("| two steps")).split(" | ")
    assert float(cells[9]) == pytest.approx(float(cells[8]) * 3.6 / 3600, abs=1e-4)


def test_seconds_of_a_program_that_was_called_count():
    watch = LatencyTimer()
    with watch.part("translate"):
        subprocess.run([sys.executable, "-c", "x = sum(range(3_000_000))"], check=True)
    assert watch.processor["translate"][0] > 0.02
    assert list(watch.wall) == ["translate"]


def test_what_cannot_be_compared_is_said(settings, data, tmp_path):
    row = {"label": "a", "model": "m"}
    for changes, message in [
        ({"systems": [row]}, "two or more with labels that differ, got a"),
        ({"systems": [row, row]}, "labels that differ, got a, a"),
        ({"systems": [row, {"label": "b"}]}, "entry 2: expected model, got label"),
        ({"systems": [row, {**row, "label": "b", "translater": {}}]}, "Did you mean 'translator'"),
        ({"test": []}, "expected one question set, got 0"),
        ({"timed": 0}, "timed: expected at least 1"),
        ({"price": float("nan")}, "price: expected that of an hour of a core, got nan"),
        ({"price": -1}, "price: expected that of an hour of a core, got -1"),
        (
            {"systems": [row, {**row, "label": "b", "translator": {"bytes": 5}}]},
            "b: expected `engine` or `model` under translator",
        ),
        (
            {"systems": [row, {**row, "label": "b", "translator": {}}]},
            "b: expected `engine` or `model` under translator",
        ),
        ({"prize": 1}, "Did you mean 'price'"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_settings(SystemsSettings, settings(**changes), [], "")
    rows = [row, {**row, "label": "b", "translator": {"model": "m"}}]  # seq2seq, by default
    load_settings(SystemsSettings, settings(systems=rows), [], "")
    with pytest.raises(ValueError, match="questions in one language"):
        compare_systems(load_settings(SystemsSettings, settings(test=[data["test"]]), [], ""))
