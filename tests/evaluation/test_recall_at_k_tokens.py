"""R@kt as an `evaluate` metric: opened from its folder, offline, where the package is not asked; equal to our own function."""

import re
import shutil
import subprocess
import sys

import evaluate
import numpy as np
import pytest
import yaml

from drdecr.evaluation.recall_at_k_tokens.xor_retrieve import score_rankings
from drdecr.hub.push import FILES, METRIC_FOLDER, push_metric


@pytest.fixture
def metric(tmp_path):
    return evaluate.load(str(METRIC_FOLDER), experiment_id=tmp_path.name, cache_dir=str(tmp_path))


def words(text: str) -> list[str]:
    return text.split()


def random_case(generator) -> tuple[list[str], list[str]]:
    letters = list("abcdefgh")
    passages = [" ".join(generator.choice(letters, 6)) for _ in range(generator.integers(0, 5))]
    answers = [" ".join(generator.choice(letters, generator.integers(1, 3))) for _ in range(2)]
    return passages, ["yes"] if generator.random() < 0.1 else answers


def test_it_agrees_with_our_function_case_by_case(metric):
    generator = np.random.default_rng(0)
    cases = [random_case(generator) for _ in range(60)]
    budgets = [5, 12]
    own = score_rankings(
        {str(i): passages for i, (passages, _) in enumerate(cases)},
        {str(i): answers for i, (_, answers) in enumerate(cases)},
        budgets,
        words,
    ).scores
    hits: dict[str, list[float]] = {"R@0.005kt": [], "R@0.012kt": []}
    for number, (passages, answers) in enumerate(cases):
        if answers == ["yes"]:
            with pytest.raises(ValueError, match="besides yes and no"):
                metric.compute(predictions=[passages], references=[answers], budgets=budgets, tokenize=words)
            continue
        found = metric.compute(predictions=[passages], references=[answers], budgets=budgets, tokenize=words)
        # The definition, told again.
        tokens = " ".join(passages).split()
        for measure, budget in zip(hits, budgets, strict=True):
            hit = float(any(answer in " ".join(tokens[:budget]) for answer in answers))
            assert found[measure] == own[measure][str(number)] == hit
            hits[measure].append(hit)
    # All together, added in two halves: the mean, and the skipped ones counted.
    for part in (cases[:30], cases[30:]):
        metric.add_batch(predictions=[passages for passages, _ in part], references=[answers for _, answers in part])
    found = metric.compute(budgets=budgets, tokenize=words)
    assert {measure: found[measure] for measure in hits} == {
        name: pytest.approx(np.mean(v)) for name, v in hits.items()
    }
    assert all(0 < np.mean(values) < 1 for values in hits.values())
    assert found["num_questions"] == len(hits["R@0.005kt"])
    assert found["num_skipped"] == 60 - found["num_questions"] > 0
    assert found["tokenizer"] == "words"


@pytest.mark.processes
def test_it_opens_without_the_package_and_without_the_network(tmp_path):
    """A copy of the pushed files in a process that cannot import drdecr."""
    folder = tmp_path / METRIC_FOLDER.name
    folder.mkdir()
    for name in FILES:
        shutil.copy(METRIC_FOLDER / name, folder)
    code = f"""
import sys
sys.modules["drdecr"] = None
import evaluate
metric = evaluate.load({str(folder)!r})
print(metric.compute(predictions=[["the king of Paris", "b"], ["c"]], references=[["king of"], ["d"]]))
"""
    settings = {
        "HF_HUB_OFFLINE": "1",
        "HF_EVALUATE_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "home"),
        "PATH": "/usr/bin",
    }
    done = subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True, text=True, timeout=280)
    assert "'R@2kt': 0.5, 'R@5kt': 0.5, 'num_questions': 2, 'num_skipped': 0" in done.stdout, done.stderr


def test_the_readme_is_a_space_card_and_its_example_is_true(metric):
    text = (METRIC_FOLDER / "README.md").read_text(encoding="utf-8")
    card = yaml.safe_load(text.split("---")[1])
    assert {"title", "sdk", "app_file", "license"} <= card.keys()
    assert {"evaluate", "metric"} <= set(card["tags"])
    assert (METRIC_FOLDER / card["app_file"]).exists()
    example = re.search(r"metric\.compute\((.*?)\n\)", text, re.DOTALL).group(1)
    found = eval(f"dict({example})")
    promised = eval(re.search(r"# (\{.*\})", text).group(1))
    got = metric.compute(**found, tokenize=words)
    assert {**got, "tokenizer": promised["tokenizer"]} == promised


def test_a_space_of_another_name_is_refused():
    with pytest.raises(ValueError, match="expected user/recall_at_k_tokens"):
        push_metric("user/my-metric")
