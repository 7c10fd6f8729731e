"""The house's rules, read from the source by AST: no circles, imports run down, small parts, names that say what they hold.

`python tests/test_architecture.py > tests/known_breaches.json` writes down today's breaches, which may only become fewer.
"""

import ast
import json
import re
import statistics
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache, cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KNOWN_BREACHES = Path(__file__).with_name("known_breaches.json")  # at the end: gone, with all that names it here

FLOORS = ("modeling_drdecr", "retrieval", "data", "trainers", "evaluation")
# Nothing imports what stands behind it. `,`: these may import each other; `|`: they may not.
ORDERS = {
    "drdecr": "modeling_drdecr < retrieval < data < trainers | evaluation"
    " < __init__, hub < runs < serve < page < cli < __main__",
    "drdecr.data": "files, languages, provenance < schema, shards, offline < embeddings, passages, readers"
    " < sources, corpus, mixture, collators, cards, hub < prepare < teacher < __init__",
}
BARE_NAMES = {*FLOORS, "recipes", "src", "tests"}
# huggingface_hub, tqdm and safetensors are what transformers itself cannot be installed without.
GROUND_FLOOR_MAY_IMPORT = {"torch", "transformers", "huggingface_hub", "safetensors", "tqdm", *sys.stdlib_module_names}
CONSOLE_SCRIPTS = ("drdecr.__main__:main", "drdecr.cli.main:main")
# What nothing in the house imports.
ENTRY_POINTS = {
    "drdecr.__main__": "the command line",
    "drdecr.evaluation.mteb": "users hand it to mteb",
    "drdecr.retrieval.qdrant.index": "users open a cluster by it",
    "drdecr.evaluation.recall_at_k_tokens.app": "the widget of the metric's Space",
    "drdecr.evaluation.recall_at_k_tokens.recall_at_k_tokens": "travels as an `evaluate` metric",
}
MOST_CODE_LINES, MOST_MODULES, MOST_TEST_LINES = 15_000, 140, 14_000
MOST_FILE_LINES, MOST_MEDIAN_LINES, MOST_FUNCTION_LINES, MOST_COMMAND_LINES = 400, 160, 60, 14
MOST_MODULES_PER_FOLDER, MOST_FOLDERS_DEEP = 12, 2
EMPTY_WORDS = re.compile(r"_*(found|own|kept|asked|made|told|shown|gone|held|there|waiting|wanted|chosen)_*")
ING_NAMES = re.compile("(model_load|batch|clean|encod|rank|pool|process|model|scor)ing")


class Module:
    """One file of the house."""

    def __init__(self, path: str, source: str):
        self.path, self.source = path, source
        parts = Path(path).with_suffix("").parts
        parts = parts[2:] if parts[0] == "src" else parts
        self.is_package = parts[-1] == "__init__"
        self.name = ".".join(["drdecr", *parts]).removesuffix(".__init__")
        self.package = self.name if self.is_package else self.name.rpartition(".")[0]
        self.nodes = list(ast.walk(ast.parse(source)))
        self.num_lines = len(source.splitlines())

    @property
    def imports(self) -> Iterator[tuple[ast.Import | ast.ImportFrom, str, str]]:
        """Every import: its statement, the full name of the module, and of what it takes from there ("" for nothing)."""
        for node in self.nodes:
            if isinstance(node, ast.Import):
                yield from ((node, alias.name, "") for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                above = self.package.split(".")[: -(node.level - 1) or None] if node.level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                yield from ((node, base, alias.name) for alias in node.names)

    @property
    def functions(self) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
        return [node for node in self.nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


class House:
    """The modules of the packages, and who imports whom. Imports in functions and under TYPE_CHECKING count."""

    def __init__(self, sources: dict[str, str], console_script: str = CONSOLE_SCRIPTS[0], num_test_lines: int = 0):
        self.modules = {module.name: module for module in (Module(*item) for item in sources.items())}
        self.leaves = [module for module in self.modules.values() if not module.is_package]
        self.console_script, self.num_test_lines = console_script, num_test_lines

    @cached_property
    def imported(self) -> dict[str, set[str]]:
        """The modules of the house that each one imports. A package's `__init__` is the module of that name."""
        return {name: set(self._imported_by(module)) - {name} for name, module in self.modules.items()}

    def _imported_by(self, module: Module) -> Iterator[str]:
        for _, base, name in module.imports:
            candidates = (f"{base}.{name}", base)
            yield from [candidate for candidate in candidates if candidate in self.modules][:1]

    @cached_property
    def num_code_lines(self) -> int:
        return sum(code_lines(module.source, module.nodes) for module in self.modules.values())


@cache
def real_house() -> House:
    """The house as it stands in this checkout."""
    paths = [path for folder in (*FLOORS, "src/drdecr") for path in (ROOT / folder).rglob("*.py")]
    script = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["drdecr"]
    tests = [line.strip() for path in (ROOT / "tests").rglob("*.py") for line in path.read_text().splitlines()]
    num_test_lines = sum(bool(line) and not line.startswith("#") for line in tests)
    return House({str(path.relative_to(ROOT)): path.read_text() for path in sorted(paths)}, script, num_test_lines)


def code_lines(source: str, nodes: list[ast.AST]) -> int:
    """Count the lines that are neither blank nor comment nor docstring; those within a string of several lines count."""
    lines = {n for n, line in enumerate(source.splitlines(), 1) if line.strip() and not line.lstrip().startswith("#")}
    texts = [node for node in nodes if isinstance(node, ast.Constant | ast.JoinedStr)]
    docstrings = [node for node in nodes if isinstance(node, ast.Expr) and is_string(node.value)]
    return len((lines | spanned([node for node in texts if node.end_lineno > node.lineno])) - spanned(docstrings))


def is_string(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def spanned(nodes: list) -> set[int]:
    return {line for node in nodes for line in range(node.lineno, node.end_lineno + 1)}


# Each check yields lines `subject: what is wrong`.


def module_circles(house: House) -> Iterator[str]:
    return circles(house.imported)


def folder_circles(house: House) -> Iterator[str]:
    """Look at what lies in one folder, sub-folders as one thing each: no two of these may need each other."""
    for folder in {module.package for module in house.modules.values()}:

        def thing(name: str, folder: str = folder) -> str:
            return ".".join(name.split(".")[: folder.count(".") + 2])

        inside = {name: targets for name, targets in house.imported.items() if f"{name}.".startswith(f"{folder}.")}
        graph: dict[str, set[str]] = {thing(name): set() for name in inside}
        for name, targets in inside.items():
            graph[thing(name)] |= {thing(target) for target in targets if target in inside} - {thing(name)}
        yield from circles(graph)


def circles(graph: dict[str, set[str]]) -> Iterator[str]:
    """Find the strongly connected components (Tarjan), and say a shortest circle in each."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    components: list[set[str]] = []

    def visit(node: str) -> None:
        order[node] = lowest[node] = len(order)
        stack.append(node)
        for target in sorted(graph[node]):
            if target not in order:
                visit(target)
                lowest[node] = min(lowest[node], lowest[target])
            elif target in stack:
                lowest[node] = min(lowest[node], order[target])
        if lowest[node] == order[node]:
            components.append(set(stack[stack.index(node) :]))
            del stack[stack.index(node) :]

    for node in sorted(graph):
        if node not in order:
            visit(node)
    for component in components:
        if len(component) > 1:
            path = shortest_circle(min(component), {node: graph[node] & component for node in component})
            yield f"{min(component)}: circle {' -> '.join(path)}, in a knot of {len(component)}"


def shortest_circle(start: str, graph: dict[str, set[str]]) -> list[str]:
    paths = [[start]]
    for path in paths:  # grows while it is read: breadth first
        if start in graph[path[-1]]:
            return [*path, start]
        paths += [[*path, target] for target in sorted(graph[path[-1]]) if not any(target in other for other in paths)]
    raise ValueError(f"{start}: expected a circle through it.")


def upward_imports(house: House) -> Iterator[str]:
    for scope, order in ORDERS.items():
        levels = order.split(" < ")
        ranks = {place: rank for rank, level in enumerate(levels) for place in re.findall(r"\w+", level)}
        inside = [name for name in house.modules if f"{name}.".startswith(f"{scope}.")]
        places = {name: [*name.removeprefix(scope).split("."), "__init__"][1] for name in inside}
        yield from (f"{name}: no place in the order of {scope}" for name in inside if places[name] not in ranks)
        for name in inside:
            for target in sorted(house.imported[name] & places.keys()):
                place, below = places[name], places[target]
                if place == below or not {place, below} <= ranks.keys():
                    continue
                is_apart = ranks[place] == ranks[below] and "|" in levels[ranks[place]]
                if ranks[place] < ranks[below] or is_apart:
                    yield f"{name}: {place} may not import {below}, but imports {target}"


def import_styles(house: House) -> Iterator[str]:
    for module in house.modules.values():
        for node, base, _ in module.imports:
            if problem := style_problem(node, base, module):
                yield f"{module.path}: line {node.lineno}: {ast.unparse(node)}: {problem}"


def style_problem(node: ast.Import | ast.ImportFrom, base: str, module: Module) -> str | None:
    first, is_ground_floor = base.split(".")[0], module.path.startswith("modeling_drdecr/")
    level = getattr(node, "level", 0)
    if level > 1:
        return "other folders are imported as drdecr.x"
    if level == 0 and first in BARE_NAMES:
        return f"a bare folder name loads everything twice, write drdecr.{first}"
    if is_ground_floor and first == "drdecr" and not (level == 1 and node.module and "." not in node.module):
        return "only a sibling imported as `from .x import y` travels to the Hub"
    if is_ground_floor and first not in {"drdecr", *GROUND_FLOOR_MAY_IMPORT}:
        return "the ground floor travels to the Hub with torch, transformers, what these need, and the standard library"
    return None


def sizes(house: House) -> Iterator[str]:
    yield from over("the packages", house.num_code_lines, MOST_CODE_LINES, "code lines")
    yield from over("the packages", len(house.leaves), MOST_MODULES, "modules")
    yield from over("tests", house.num_test_lines, MOST_TEST_LINES, "lines of code and docstrings")
    median = statistics.median(module.num_lines for module in house.leaves)
    yield from over("the packages", median, MOST_MEDIAN_LINES, "lines in the median file")
    for module in house.modules.values():
        yield from over(module.path, module.num_lines, MOST_FILE_LINES, "lines")
        depth = module.package.count(".") - 1  # 0 in a top folder
        yield from over(module.path, depth, MOST_FOLDERS_DEEP, "folders below a top folder")
    for folder, count in Counter(module.package for module in house.leaves).items():
        yield from over(folder, count, MOST_MODULES_PER_FOLDER, "modules in the folder")


def over(subject: str, count: float, most: int, unit: str) -> Iterator[str]:
    if count > most:
        yield f"{subject}: {count} {unit}, at most {most}"


def function_sizes(house: House) -> Iterator[str]:
    """Count a function from `def` on, without its docstring; of a command only what stands behind the docstring."""
    for module in house.modules.values():
        commands = set(command_names(module)) if f"{module.name}.".startswith("drdecr.cli.") else set()
        for function in module.functions:
            subject, num_docstrings = f"{module.path} {function.name}", int(ast.get_docstring(function) is not None)
            count = len(spanned([function]) - spanned(function.body[:num_docstrings]))
            yield from over(subject, count, MOST_FUNCTION_LINES, "lines")
            body = function.body[num_docstrings:]
            if function.name in commands and body:
                yield from over(
                    subject,
                    len(spanned([function]) - set(range(body[0].lineno))),
                    MOST_COMMAND_LINES,
                    "lines of a command",
                )


def command_names(module: Module) -> Iterator[str]:
    """Functions under `@app.command(...)`, and those handed over as `app.command(...)(function)`."""
    for node in module.nodes:
        if isinstance(node, ast.FunctionDef) and any(".command(" in ast.unparse(one) for one in node.decorator_list):
            yield node.name
        elif isinstance(node, ast.Call) and ".command(" in ast.unparse(node.func):
            yield from (ast.unparse(argument) for argument in node.args)


def unused_modules(house: House) -> Iterator[str]:
    targets = set().union(*house.imported.values())
    for module in house.leaves:
        if module.name not in targets | ENTRY_POINTS.keys():
            yield f"{module.name}: no module imports it"


def entry_points(house: House) -> Iterator[str]:
    if "drdecr.__main__" not in house.modules:
        yield "src/drdecr/__main__.py: expected it, for `python -m drdecr`"
    if house.console_script not in CONSOLE_SCRIPTS:
        yield f"pyproject.toml: console script {house.console_script}, expected one of {', '.join(CONSOLE_SCRIPTS)}"


def empty_words(house: House) -> Iterator[str]:
    for module in house.modules.values():
        for node in module.nodes:
            if EMPTY_WORDS.fullmatch(name := bound_name(node)):
                yield f"{module.path}: line {node.lineno}: {name} does not say what it holds"


def bound_name(node: ast.AST) -> str:
    """Return the argument, variable, attribute or imported name that a node sets; "" for none."""
    match node:
        case ast.arg(arg=name) | ast.alias(asname=str(name)) | ast.ExceptHandler(name=str(name)):
            return name
        case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
            return name
    return ""


def module_names(house: House) -> Iterator[str]:
    for module in house.modules.values():
        name = module.name.rpartition(".")[2].removesuffix("_drdecr")
        if name.endswith("ing") and not ING_NAMES.fullmatch(name):
            yield f"{module.name}: a module is called by a noun for what is in it"


CHECKS: dict[str, Callable[[House], Iterator[str]]] = {
    check.__name__: check
    for check in (module_circles, folder_circles, upward_imports, import_styles, sizes, function_sizes, unused_modules,
                  entry_points, empty_words, module_names)
}  # fmt: skip


def count_by_subject(lines: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(line.partition(": ")[0] for line in lines).items()))


@pytest.mark.parametrize("check", CHECKS)
def test_the_house_keeps_its_rules(check: str):
    known = json.loads(KNOWN_BREACHES.read_text()).get(check, {})
    lines = list(CHECKS[check](real_house()))
    counts = count_by_subject(lines)
    new = [line for line in lines if counts[subject := line.partition(": ")[0]] > known.get(subject, 0)]
    assert not new, "\n".join(new)
    assert counts == known, f"Fewer breaches, well done: write {KNOWN_BREACHES.name} anew."


def test_the_size_of_the_house_is_said(capsys: pytest.CaptureFixture[str]):
    house = real_house()
    with capsys.disabled():
        print(f"\n{len(house.leaves)} modules, {house.num_code_lines} code lines, {house.num_test_lines} in tests")


# A house that breaks no rule, for breaches to be planted in.
SOUND = {
    "modeling_drdecr/scoring_drdecr.py": "import torch.nn, string\nfrom transformers import AutoModel\n",
    "modeling_drdecr/modeling_drdecr.py": "from .scoring_drdecr import maxsim\n",
    "modeling_drdecr/__init__.py": "from .modeling_drdecr import DrDecrModel\n",
    "retrieval/__init__.py": "",
    "retrieval/exact.py": "import numpy\nfrom drdecr.modeling_drdecr import maxsim\nfrom drdecr import modeling_drdecr\n",
    "retrieval/stored/ranking.py": "from drdecr.retrieval.exact import ExactIndex\n",
    "retrieval/build.py": "from .stored.ranking import rank\n",
    "data/schema.py": "",
    "data/readers/squad.py": "from drdecr.data.schema import Row\n",
    "data/sources.py": "from .readers.squad import read\nfrom drdecr.retrieval import build\n",
    "trainers/__init__.py": "",
    "trainers/losses.py": "def kl(student_scores):\n    return student_scores.found()\n",
    "evaluation/metrics.py": "from drdecr.data import sources\n",
    "src/drdecr/__init__.py": "__version__ = '1'\n",
    "src/drdecr/runs/stage.py": "from drdecr import __version__\nfrom drdecr.trainers import losses\n",
    "src/drdecr/cli/main.py": "from drdecr.runs import stage\nfrom drdecr.evaluation import metrics\n",
    "src/drdecr/__main__.py": "from .cli.main import main\n",
}


GROUND, EXACT, SCHEMA = "modeling_drdecr/scoring_drdecr.py", "retrieval/exact.py", "data/schema.py"
LOSSES, METRICS, STAGE = "trainers/losses.py", "evaluation/metrics.py", "src/drdecr/runs/stage.py"
COMMANDS = "src/drdecr/cli/main.py"
LONG_FUNCTION = "def f():\n    '''Text.\n\n    More.'''\n" + "    x = 1\n" * 60
LONG_COMMAND = "def f():\n    'Text.'\n" + "    g()\n" * 15
PLANTED = [
    # check, the file it is planted in, what comes to its text, part of the message
    ("module_circles", EXACT, "import drdecr.retrieval.build", "build -> drdecr.retrieval.stored.ranking ->"),
    ("module_circles", SCHEMA, "def f():\n    from .sources import rows", "data.sources -> drdecr.data.readers"),
    ("module_circles", SCHEMA, "if TYPE_CHECKING:\n    from drdecr.data.sources import A", "circle"),
    ("module_circles", GROUND, "from drdecr.modeling_drdecr import DrDecrModel", "circle"),
    ("folder_circles", "data/readers/text.py", "import drdecr.data.sources", "data.readers -> drdecr.data.sources"),
    ("folder_circles", "src/drdecr/runs/demo.py", "from drdecr.cli import main", "drdecr.cli -> drdecr.runs"),
    ("upward_imports", EXACT, "from drdecr.data import schema", "retrieval may not import data"),
    ("upward_imports", SCHEMA, "from drdecr.trainers.losses import kl", "data may not import trainers"),
    ("upward_imports", SCHEMA, "from drdecr import trainers", "data may not import trainers"),
    ("upward_imports", SCHEMA, "from drdecr import DrDecrModel", "data may not import __init__"),
    ("upward_imports", SCHEMA, "import drdecr", "data may not import __init__"),
    ("upward_imports", LOSSES, "import drdecr.evaluation.metrics", "trainers may not import evaluation"),
    ("upward_imports", METRICS, "from drdecr.trainers import losses", "may not import trainers"),
    ("upward_imports", METRICS, "from drdecr.cli.main import app", "evaluation may not import cli"),
    ("upward_imports", STAGE, "from drdecr.cli.main import app", "runs may not import cli"),
    ("upward_imports", "src/drdecr/hub/push.py", "from drdecr.runs.stage import run", "hub may not import runs"),
    ("upward_imports", COMMANDS, "import drdecr.__main__", "cli may not import __main__"),
    ("upward_imports", "data/readers/squad.py", "import drdecr.data.sources", "readers may not import sources"),
    ("upward_imports", "data/odds.py", "", "drdecr.data.odds: no place"),
    ("upward_imports", "src/drdecr/odds/ends.py", "", "drdecr.odds.ends: no place"),
    ("import_styles", GROUND, "import numpy", "the ground floor travels"),
    ("import_styles", GROUND, "def f():\n    import peft", "the ground floor travels"),
    ("import_styles", GROUND, "from . import x_drdecr", "only a sibling"),
    ("import_styles", GROUND, "from .sub.x import y", "only a sibling"),
    ("import_styles", GROUND, "from drdecr.modeling_drdecr import y", "only a sibling"),
    ("import_styles", GROUND, "from ..retrieval import y", "imported as drdecr.x"),
    ("import_styles", EXACT, "from ..modeling_drdecr import maxsim", "imported as drdecr.x"),
    ("import_styles", LOSSES, "if True:\n    from data.schema import Row", "write drdecr.data"),
    ("import_styles", COMMANDS, "import trainers", "write drdecr.trainers"),
    ("sizes", SCHEMA, "x = 1\n" * 401, "data/schema.py: 401 lines"),
    ("sizes", "data/readers/a/b/c.py", "", "3 folders below"),
    ("function_sizes", SCHEMA, LONG_FUNCTION, "61 lines"),
    ("function_sizes", COMMANDS, f"@app.command()\n{LONG_COMMAND}", "15 lines"),
    ("function_sizes", COMMANDS, f"{LONG_COMMAND}app.command('f')(f)", "15 lines"),
    ("unused_modules", "data/files.py", "", "drdecr.data.files: no module imports it"),
    ("empty_words", SCHEMA, "def f(*, found): ...", "found does not say"),
    ("empty_words", SCHEMA, "kept, [*b] = 1, [2]", "kept"),
    ("empty_words", SCHEMA, "for asked in (): ...", "asked"),
    ("empty_words", SCHEMA, "[told for told in ()]", "told"),
    ("empty_words", SCHEMA, "class A:\n    made: int", "made"),
    ("empty_words", SCHEMA, "def f(self):\n    self._held = 1", "_held"),
    ("empty_words", SCHEMA, "with f() as shown: ...", "shown"),
    ("module_names", "data/readers/dealing.py", "", "drdecr.data.readers.dealing"),
]


@pytest.mark.parametrize(("check", "path", "text", "message"), PLANTED)
def test_a_planted_breach_is_reported(check: str, path: str, text: str, message: str):
    lines = list(CHECKS[check](House({**SOUND, path: SOUND.get(path, "") + text})))
    assert any(message in line for line in lines), lines


def test_breaches_of_the_whole_are_reported(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(globals(), "MOST_CODE_LINES", 15)
    monkeypatch.setitem(globals(), "MOST_MODULES", 12)
    crowd = {f"data/readers/m{n}.py": "x = 1\n" * 161 for n in range(30)}
    text = "\n".join(sizes(House(SOUND | crowd, num_test_lines=14_001)))
    for message in (
        "14001 lines",
        "lines, at most 15\n",
        "modules, at most 12\n",
        "161 lines in the median",
        "31 modules",
    ):
        assert message in text
    assert len(list(entry_points(House(SOUND, "drdecr.cli:main")))) == len(list(entry_points(House({})))) == 1


@pytest.mark.parametrize("check", CHECKS)
def test_what_is_allowed_is_no_breach(check: str):
    assert list(CHECKS[check](House(SOUND))) == []


if __name__ == "__main__":
    present = {check: count_by_subject(CHECKS[check](real_house())) for check in CHECKS}
    print(json.dumps({check: counts for check, counts in present.items() if counts}, indent=1))
