"""What the documentation shows works: commands and their options, files, Python code and names, the README's recipes."""

import ast
import importlib
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from drdecr.cli.main import app
from drdecr.data.teacher.mine import MiningSettings
from drdecr.data.teacher.translate import TranslationSettings
from drdecr.runs.recipe import ARGUMENTS, DataSettings, Recipe, load_recipe
from drdecr.runs.stage import run_stage
from drdecr.trainers import LoraSettings

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "model_card.md", "data/offline/sample_texts/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
# Commands, names and files are also named in comments, docstrings and the notebook.
FOLDERS = ("recipes", "benchmarks", "examples", "src/drdecr", "data", "trainers", "retrieval", "evaluation")
CODE = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.*"))]
DOCUMENTED = PAGES + [path for path in CODE if path.suffix in (".yaml", ".py", ".ipynb")]

# Which keys `--key value` may name behind a command that takes such pairs.
STAGE_SETTINGS = (Recipe, DataSettings, LoraSettings, *ARGUMENTS.values())
SETTINGS = {"translate": (TranslationSettings,), "mine": (MiningSettings,)}
# What runs in a moment, with no network: these lines are not parsed alone but run.
RUNS = ("drdecr keys", "drdecr data sources")
LAUNCHED = re.compile(r"(?:\w+=\S+ )*(?:accelerate launch|torchrun) .*?-m (drdecr[.\w]*)")
COMMAND_LINE = re.compile(r"^[# ]*((?:\w+=\S+ )*(?:drdecr (?=[a-z])|accelerate launch .*drdecr|torchrun .*drdecr).*)")
REPOSITORY_PATH = re.compile(r"(?<![\w./-])(?:recipes|docs|benchmarks|examples|deploy|tests)/[\w./-]*\w")


def code_blocks(path: Path, *languages: str) -> Iterator[tuple[int, str]]:
    """Yield number of the first line, and text, of the fenced blocks in one of these languages ("" for none)."""
    for match in re.finditer(r"^ *```(\w*)\n(.*?)^ *```$", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        if match[1] in languages:
            yield match.string[: match.start(2)].count("\n") + 1, match[2]


def shell_commands(text: str) -> Iterator[list[str]]:
    """Yield the words behind `drdecr`, of each call of it in a line; of `[--optional ONE|TWO]` the first choice."""
    words = shlex.shlex(re.sub(r"[][]|(?<=\w)\|[\w|-]+", "", text), posix=True, punctuation_chars="&;|")
    words.whitespace_split = True
    calls: list[list[str]] = [[]]
    for word in words:
        if set(word) <= set("&;|"):
            calls.append([])
        else:
            calls[-1].append(word)
    for call in calls:
        line = " ".join(call)
        if launched := LAUNCHED.match(line):
            module = launched[1].removeprefix("drdecr").strip(".")
            arguments = call[len(launched[0].split()) :]
            yield [launched[1]] if name_problem(launched[1]) else [module, *arguments] if module else arguments
        elif call and call[0] == "drdecr":
            yield call[1:]


@cache
def command_line() -> Any:
    return typer.main.get_command(app)


def keys_behind(command: str) -> set[str]:
    return {field.name for settings in SETTINGS.get(command, STAGE_SETTINGS) for field in fields(settings)}


def command_problem(words: list[str]) -> str | None:
    """Parse a call as the command line does, without running it; return what is wrong with it."""
    command: Any = command_line()
    context, name = None, "drdecr"
    try:
        while True:
            context = command.make_context(name, list(words), parent=context)
            words = [*context._protected_args, *context.args]
            if not hasattr(command, "commands") or not words:
                break
            name, command, words = command.resolve_command(context, words)
    except typer.Exit:  # --help, --version
        return None
    except typer.BadParameter.__base__ as error:  # any wrong usage
        return error.format_message()
    pairs = context.args
    names = [word[2:].partition("=")[0].split(".")[-1] for word in pairs if word.startswith("--")]
    values = [word for word in pairs if not word.startswith("--")]
    if unknown := set(names) - keys_behind(name):
        return f"unknown keys {sorted(unknown)}"
    return f"unexpected {values}" if len(values) > len(names) else None


def mention_problem(words: list[str]) -> str | None:
    """Check a call in running text, which may leave its arguments out: the command and its options must be there."""
    command: Any = command_line()
    for word in words:
        if hasattr(command, "commands") and re.fullmatch(r"[a-z][a-z-]*", word):
            if word not in command.commands:
                return f"no command {word!r}"
            command = command.commands[word]
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    options |= {f"--{key}" for key in keys_behind(command.name)}
    unknown = {word.split(".")[0] for word in words if re.match("--[a-z]", word)} - {"--help", *options}
    return f"no option {sorted(unknown)}" if unknown else None


@cache
def name_problem(dotted: str) -> str | None:
    """Check that `drdecr.a.b.c` is a module or stands in one."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for number, part in enumerate(parts[end:], end):
            if not hasattr(value, part):
                return f"{'.'.join(parts[:number])} has no {part!r}"
            value = getattr(value, part)
        return None
    return f"no module {dotted}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_command_in_a_shell_block_parses(path: Path):
    problems = []
    for first, block in code_blocks(path, "", "sh", "bash"):
        for number, line in enumerate(block.splitlines(), first):
            for words in shell_commands(line) if COMMAND_LINE.match(line) else ():
                if problem := command_problem(words):
                    problems.append(f"{path.name}:{number}: {line.strip()}: {problem}")
                elif " ".join(["drdecr", *words]).startswith(RUNS):
                    assert CliRunner().invoke(app, words).exit_code == 0, line
    assert not problems, "\n".join(problems)


def test_commands_and_names_in_running_text_are_there():
    problems = []
    for path in DOCUMENTED:
        text = path.read_text(encoding="utf-8")
        for match in re.finditer(
            r"`(?:drdecr|[\w= ]*(?:accelerate launch|torchrun)[^`]* -m drdecr) ([a-z][^`]*)`", text
        ):
            problems.append((path, match[0], mention_problem(re.sub(r"[][|=]", " ", match[1]).split())))
        for match in re.finditer(r"(?:`|-m )(drdecr(?:\.\w+)+)\b", text):
            problems.append((path, match[1], name_problem(match[1])))
        for line in text.splitlines() if path not in PAGES else ():
            if match := COMMAND_LINE.match(line):
                problems += [(path, line, command_problem(words)) for words in shell_commands(match[1])]
    wrong = [f"{path.relative_to(ROOT)}: {mention}: {problem}" for path, mention, problem in problems if problem]
    assert not wrong, "\n".join(wrong)


def test_files_of_the_repository_that_are_named_exist():
    missing = []
    for path in DOCUMENTED:
        text = path.read_text(encoding="utf-8")
        named = set(REPOSITORY_PATH.findall(text))
        if path in PAGES and path.name != "model_card.md":  # a card's links are to files of the run
            named |= set(re.findall(r"\]\((?!https?:)([^)#\s]+)", text))
        missing += [
            (str(path), name) for name in named if not (ROOT / name).exists() and not (path.parent / name).exists()
        ]
    assert not missing


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_python_blocks_compile_and_import_what_is_there(path: Path):
    problems = []
    for first, block in code_blocks(path, "python"):
        try:
            tree = ast.parse(block)
        except SyntaxError as error:
            problems.append((first, f"{error.text}: {error.msg}"))
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("drdecr."):
                problems += [(first, name_problem(f"{node.module}.{alias.name}")) for alias in node.names]
    assert not [problem for problem in problems if problem[1]], path


@pytest.mark.parametrize(
    "line",
    [
        "drdecr nonsense",
        "drdecr train",
        "drdecr train a.yaml b.yaml",
        "drdecr train a.yaml --learning_rat 1",
        "drdecr search encoded --nonsense",
        "accelerate launch --num_processes 2 -m drdecr nonsense a.yaml",
        "A=b torchrun --nproc_per_node 2 -m drdecr train",
        "drdecr train a.yaml && drdecr nonsense",
    ],
)
def test_a_wrong_command_is_noticed(line: str):
    assert any(command_problem(words) for words in shell_commands(line))


@pytest.mark.parametrize(
    "line",
    [
        "drdecr train a.yaml --learning_rate 1e-5 --data.dev_texts=8  # comment",
        "drdecr push FOLDER user/name [--private] [--tag v1]",
        "accelerate launch -m drdecr train a.yaml --training.use_cpu true",
        "drdecr --version && drdecr train --help",
    ],
)
def test_a_right_command_is_not_blamed(line: str, capsys: pytest.CaptureFixture[str]):
    calls = list(shell_commands(line))
    assert calls
    assert [command_problem(words) for words in calls] == [None] * len(calls)


def test_a_wrong_mention_is_noticed():
    assert mention_problem(["nonsense"])
    assert mention_problem(["search", "--nonsense"])
    assert mention_problem(["search", "encoded", "--top-k", "3"]) is None
    assert name_problem("drdecr.nonsense")
    assert name_problem("drdecr.trainers.losses.nonsense")
    assert name_problem("drdecr.trainers.losses.relevance_kl") is None


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
