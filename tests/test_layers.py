"""Imports run downwards: the floors of the house, read from the source by AST."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What a floor may import of the house, besides its own siblings by `from .x import y`.
FLOORS = {
    "modeling_drdecr": set(),
    "retrieval": {"modeling_drdecr"},
    "data": {"modeling_drdecr", "retrieval"},
    "trainers": {"modeling_drdecr", "data"},
    "evaluation": {"modeling_drdecr", "data", "retrieval"},
    "src/drdecr": {"modeling_drdecr", "retrieval", "data", "trainers", "evaluation", "recipes"},
}
BARE_NAMES = {"modeling_drdecr", "retrieval", "data", "trainers", "evaluation", "recipes", "src", "tests"}
# huggingface_hub, tqdm and safetensors are what transformers itself cannot be installed without.
GROUND_FLOOR_MAY_IMPORT = {"torch", "transformers", "huggingface_hub", "safetensors", "tqdm", *sys.stdlib_module_names}


def breaches(source: str, floor: str) -> list[str]:
    """Return a line for each import of `source`, a file on `floor`, that the house forbids."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            # `from drdecr import data` names the module in its second half.
            names = [f"drdecr.{alias.name}" for alias in node.names] if node.module == "drdecr" else [node.module or ""]
            problems = [_problem(name, node.level, floor) for name in names]
        elif isinstance(node, ast.Import):
            problems = [_problem(alias.name, 0, floor) for alias in node.names]
        else:
            continue
        found += [f"line {node.lineno}: {ast.unparse(node)}: {problem}" for problem in problems if problem]
    return found


def _problem(module: str, level: int, floor: str) -> str | None:
    first, *rest = module.split(".")
    if level:
        if floor == "modeling_drdecr" and not (level == 1 and first and not rest):
            return "only a sibling imported as `from .x import y` travels to the Hub"
        return None if level == 1 else "other floors are imported as drdecr.x"
    if first in BARE_NAMES:
        return f"a bare folder name loads everything twice, write drdecr.{first}"
    if first == "drdecr":
        target = rest[0] if rest else "the roof"
        return None if target in FLOORS[floor] else f"{floor} may not import {target}"
    if floor == "modeling_drdecr" and first not in GROUND_FLOOR_MAY_IMPORT:
        allowed = ", ".join(sorted(GROUND_FLOOR_MAY_IMPORT - {*sys.stdlib_module_names}))
        return f"the ground floor travels to the Hub and imports {allowed} and the standard library only"
    return None


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_run_downwards(floor):
    files = sorted((ROOT / floor).rglob("*.py"))
    assert files, f"{floor} holds no module"
    found = [f"{path.relative_to(ROOT)} {line}" for path in files for line in breaches(path.read_text(), floor)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("floor", "source"),
    [
        ("modeling_drdecr", "import numpy"),
        ("modeling_drdecr", "from drdecr.retrieval import ExactIndex"),
        ("modeling_drdecr", "from . import scoring_drdecr"),
        ("modeling_drdecr", "from .sub.scoring import maxsim"),
        ("modeling_drdecr", "from ..retrieval import ExactIndex"),
        ("modeling_drdecr", "from drdecr.modeling_drdecr import maxsim"),
        ("modeling_drdecr", "def f():\n    import peft"),
        ("retrieval", "from drdecr.data import schema"),
        ("retrieval", "from ..modeling_drdecr import maxsim"),
        ("data", "from drdecr.trainers.losses import relevance_kl"),
        ("data", "from drdecr import trainers"),
        ("data", "from drdecr import DrDecrModel"),
        ("data", "import drdecr"),
        ("trainers", "import drdecr.evaluation.metrics"),
        ("trainers", "if True:\n    from data.schema import Row"),
        ("evaluation", "from drdecr.trainers import align_tokens"),
        ("evaluation", "from drdecr.cli.main import main"),
        ("src/drdecr", "import trainers"),
    ],
)
def test_a_planted_breach_is_found(floor, source):
    assert len(breaches(source, floor)) == 1


@pytest.mark.parametrize(
    ("floor", "source"),
    [
        (
            "modeling_drdecr",
            "import torch.nn, string\nfrom transformers import AutoModel\nfrom .scoring_drdecr import maxsim",
        ),
        ("retrieval", "import numpy\nfrom drdecr.modeling_drdecr import maxsim"),
        ("data", "from drdecr import modeling_drdecr, retrieval"),
        ("src/drdecr", "from drdecr.trainers import align_tokens\nfrom . import __version__"),
    ],
)
def test_what_the_house_allows_is_no_breach(floor, source):
    assert breaches(source, floor) == []
