"""YAML and `--key value` pairs to checked dataclasses, and the list of their keys."""

import inspect
import json
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import yaml

from drdecr.data.schema import check_keys

IN_WORDS = {
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid string": "text",
    "a valid boolean": "true or false",
    "a valid array": "a list",
    "an object": "`key: value` lines",
    "a valid dictionary": "`key: value` lines",
}
"""What pydantic calls a kind of value, in the words of YAML."""

Settings = TypeVar("Settings")


def build_settings(cls: type[Settings], content: Any, where: str) -> Settings:
    """Make a dataclass, and those inside it, of what YAML holds; `null` stands for the default.

    Args:
        cls: dataclass of the settings.
        content: mapping of its fields to plain values.
        where: file or section, for messages.

    Raises:
        ValueError: for an unknown or missing key, a value of another kind, or what the dataclass itself refuses.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"{where}: expected `key: value` lines, got {content!r}.")
    kinds = field_kinds(cls)
    check_keys(content, list(kinds), where)
    values = {
        name: _build_value(kinds[name], value, where, name) for name, value in content.items() if value is not None
    }
    dataclass: Any = cls
    missing = [
        field.name
        for field in fields(dataclass)
        if field.init and field.default is MISSING and field.default_factory is MISSING and field.name not in values
    ]
    if missing:
        raise ValueError(f"{where}: expected {', '.join(missing)}, got {', '.join(content) or 'nothing'}.")
    try:
        settings: Settings = dataclass(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return settings


def check_values(content: Mapping[str, Any], cls: type, where: str) -> None:
    """Check keys and values against a dataclass that is not made yet.

    Raises:
        ValueError: as `build_settings`.
    """
    kinds = field_kinds(cls)
    check_keys(content, list(kinds), where)
    for name, value in content.items():
        _build_value(kinds[name] | None, value, where, name)


def field_kinds(cls: type) -> dict[str, Any]:
    """Return the types of a dataclass's fields that may be given, by their names."""
    kinds = typing.get_type_hints(cls)
    dataclass: Any = cls
    return {field.name: kinds[field.name] for field in fields(dataclass) if field.init}


def _build_value(kind: Any, value: Any, where: str, name: str) -> Any:
    from pydantic import TypeAdapter, ValidationError

    nested = next((part for part in (kind, *typing.get_args(kind)) if is_dataclass(part)), None)
    if nested is not None and typing.get_origin(kind) is not list:
        return build_settings(nested, value, f"{where}: {name}")  # type: ignore[arg-type]
    if nested is not None and isinstance(value, list):
        return [build_settings(nested, row, f"{where}: {name}, entry {n}") for n, row in enumerate(value, start=1)]  # type: ignore[arg-type]
    try:
        return TypeAdapter(list if nested else kind).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        problems = error.errors()
        expected = [problem["msg"].removeprefix("Input should be ") for problem in problems]
        words = " or ".join(dict.fromkeys(IN_WORDS.get(text, text) for text in expected))
        wrong = problems[0]["input"] if len(problems) == 1 else value
        raise ValueError(f"{where}: expected {words} for {name!r}, got {wrong!r}. Correct the value.") from error
    except TypeError as error:  # `!!binary` and `!!set`
        raise ValueError(
            f"{where}: expected plain values for {name!r}, got {value!r}. Write text or numbers."
        ) from error


def load_settings(cls: type[Settings], path: Path, overrides: Sequence[str], expected: str) -> Settings:
    """Read settings from YAML and apply overrides, `--key value` or `--section.key value`.

    Args:
        cls: dataclass of the settings.
        path: of the YAML file.
        overrides: words of the command line.
        expected: what the file should hold, for the message where there is no such file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for what is no mapping, or an unknown key or value.
    """
    content = read_yaml(path, expected)
    override(content, overrides, {"": cls})
    return build_settings(cls, content, str(path))


def override(
    content: dict[str, Any], arguments: Sequence[str], sections: Mapping[str, type], bare: Sequence[str] = ("",)
) -> None:
    """Put `--key value` pairs into what a file holds.

    Args:
        content: of the file; changed.
        arguments: words of the command line.
        sections: dataclass of each section by its name, "" for the top level. A field of text takes `7` as text.
        bare: sections in which a key without one is looked for; unknown, it is the last one's.
    """
    for key, (text, value) in parse_overrides(arguments).items():
        section, dot, name = key.partition(".")
        if not dot:
            name = key
            section = next((place for place in bare if key in field_kinds(sections[place])), bare[-1])
        if section and content.get(section) is None:
            content[section] = {}
        place = content[section] if section else content
        if not isinstance(place, dict):
            raise ValueError(
                f"--{key}: {section!r} holds one value, not settings of its own. Give `--{section} VALUE`."
            )
        kind = field_kinds(sections[section]).get(name) if section in sections else None
        is_text = kind is str or set(typing.get_args(kind)) == {str, type(None)}
        place[name] = text if is_text and isinstance(value, bool | int | float) else value


def parse_overrides(arguments: Sequence[str]) -> dict[str, tuple[str, Any]]:
    """Parse `--key value` and `--key=value` to the text and what it means in YAML, as `1e-5`, `true` and `[1, 2]` do.

    >>> parse_overrides(["--data.dev_texts", "10", "--bf16=true"])
    {'data.dev_texts': ('10', 10), 'bf16': ('true', True)}

    Raises:
        ValueError: for a word in the place of a key, a key without a value, or one that stands twice.
    """
    rest = list(arguments)
    overrides: dict[str, tuple[str, Any]] = {}
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or len(word) < 3:
            raise ValueError(f"Expected `--key value`, got {word!r}.")
        key, equals, text = word[2:].partition("=")
        if not equals:
            if not rest:
                raise ValueError(f"--{key}: expected a value after it.")
            text = rest.pop(0)
        name = key.replace("-", "_")
        if name in overrides:
            raise ValueError(f"--{key}: expected it once, got {overrides[name][0]!r} and {text!r}. Leave one out.")
        try:
            overrides[name] = text, yaml.load(text, _Loader)
        except yaml.YAMLError as error:
            raise ValueError(
                f"--{key}: expected a value in YAML, got {text!r}. Put texts with signs in quotes."
            ) from error
    return overrides


class _Loader(yaml.SafeLoader):
    """YAML 1.2's booleans and numbers: `no` is a text (a strategy, Norwegian), `1e-5` a number, a date a text.

    A key that stands twice is an error: the first value would be dropped without a word.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [pair for pair in pairs if pair[0].rpartition(":")[2] not in ("bool", "float", "timestamp")]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            name, line = (key.tag, str(key.value)), key.start_mark.line + 1
            if name in lines:
                raise yaml.YAMLError(f"{key.value!r} stands twice, in lines {lines[name]} and {line}. Leave one out")
            lines[name] = line
        return node


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?((\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|\.(inf|nan))$"),
    list("-+.0123456789"),
)


def read_yaml(path: str | Path, expected: str | None = None) -> dict[str, Any]:
    """Read a YAML mapping, in which no key stands twice.

    Args:
        path: of the file.
        expected: what it should hold, for the message where there is no such file (default: a recipe).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file, for what is no YAML mapping.
    """
    file = Path(path)
    if not file.is_file():
        problem = "this is a folder" if file.is_dir() else "there is no such file"
        if expected is not None:
            raise FileNotFoundError(f"{file}: {problem}; expected YAML with {expected}.")
        folder = files("drdecr.recipes")
        problem = f"{problem}; expected a recipe" if file.is_dir() else "no such recipe"
        raise FileNotFoundError(f"{file}: {problem}. The ones that come with the package are in {folder}.")
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: expected text in UTF-8 ({error}). Save it as UTF-8.") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: expected YAML in which each key stands once ({error}).") from error
    except RecursionError as error:
        raise ValueError(f"{file}: expected YAML, got brackets too deep in each other.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file}: expected `key: value` lines, got {type(content).__name__}.")
    return content


def describe_fields(cls: type) -> Iterator[tuple[str, Any, str]]:
    """Yield each argument of a class that its docstring or its fields explain: name, default, and meaning in one line.

    One without a default, or whose default is made anew each time, has `None`.
    """
    dataclass: Any = cls
    helps = {field.name: field.metadata.get("help", "") for field in fields(dataclass)} if is_dataclass(cls) else {}
    meanings = argument_meanings(cls)
    for name, parameter in inspect.signature(cls).parameters.items():
        meaning = meanings.get(name) or re.sub(r"\s+", " ", helps.get(name, "")).strip()
        if meaning:
            is_plain = isinstance(parameter.default, bool | int | float | str)
            yield name, parameter.default if is_plain else None, meaning


def argument_meanings(cls: type) -> dict[str, str]:
    """Return what a docstring's section `Args:` says of each argument, in one line each."""
    text = inspect.getdoc(cls) or ""
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", text, re.DOTALL | re.MULTILINE)
    entries = re.findall(
        r"^    (\w+): (.*?)(?=^    \S|\Z)", section.group(1) if section else "", re.DOTALL | re.MULTILINE
    )
    return {name: re.sub(r"\s+", " ", meaning).strip() for name, meaning in entries}
