"""Settings against the dataclass that takes them: known names, and values of the kind that their fields say."""

import difflib
import inspect
import re
import textwrap
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from importlib.resources import files
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar

import yaml

KINDS: dict[Any, tuple[type, ...]] = {
    bool: (bool,),
    int: (int,),
    float: (int, float),
    str: (str,),
    list: (list,),
    dict: (dict,),
}
"""What YAML may hold for a field. Other fields, such as transformers' enumerations, are left to their own checks."""

Settings = TypeVar("Settings")


def known_keys(content: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    """Check that a mapping has no other keys than these.

    Raises:
        ValueError: naming the nearest known key.
    """
    for key in content:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else f" Known are {', '.join(sorted(names)[:40])}."
            raise ValueError(f"{where}: unknown key {key!r}.{hint}")


def check_values(content: Mapping[str, Any], settings: type, where: str) -> None:
    """Check that values are of their fields' kind.

    Raises:
        ValueError: naming the key, what it takes and what came.
    """
    hints = {f.name: f.type for f in fields(settings)}
    if any(isinstance(hint, str) for hint in hints.values()):
        hints = typing.get_type_hints(settings)
    for key, value in content.items():
        kinds = _kinds(hints.get(key))
        wrong_bool = isinstance(value, bool) and bool not in kinds
        if kinds and value is not None and (wrong_bool or not isinstance(value, tuple(kinds))):
            names = " or ".join(sorted({kind.__name__ for kind in kinds}))
            raise ValueError(f"{where}: expected {names} for {key!r}, got {value!r}. Correct the value.")


def settings_of(kind: type[Settings], content: Any, where: str) -> Settings:
    """Make settings, a dataclass, of what YAML holds for them.

    Raises:
        ValueError: for an unknown key, or a value of another kind; as the dataclass itself.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"{where}: expected `key: value` lines, got {content!r}.")
    dataclass: Any = kind
    known_keys(content, [field.name for field in fields(dataclass)], where)
    check_values(content, kind, where)
    made: Settings = dataclass(**content)
    return made


def _kinds(hint: Any) -> set[type]:
    """Return the types that a value may have; none where the hint holds something else than plain kinds."""
    is_union = typing.get_origin(hint) in (typing.Union, UnionType)
    parts = [part for part in (typing.get_args(hint) if is_union else (hint,)) if part is not type(None)]
    plain = [typing.get_origin(part) or part for part in parts]
    if not all(part in KINDS for part in plain):
        return set()
    return {kind for part in plain for kind in KINDS[part]}


def load_settings(kind: type[Settings], path: Path, overrides: Sequence[str], command: str) -> Settings:
    """Read a step's settings from YAML and apply overrides, `--key value` or `--section.key value`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for what is no mapping, or an unknown key or value.
    """
    content = read_yaml(path, f"the settings of `drdecr {command}` (docs/teaching.md)")
    for key, value in parse_overrides(overrides).items():
        section, dot, name = key.partition(".")
        if dot and not isinstance(content.setdefault(section, {}), dict):
            raise ValueError(
                f"--{key}: {section!r} holds one value, not settings of its own. Give `--{section} VALUE`."
            )
        place, last = (content[section], name) if dot else (content, key)
        place[last] = value
    return settings_of(kind, content, str(path))


class _Loader(yaml.SafeLoader):
    """YAML 1.2's booleans and numbers: `no` is a text (a strategy, Norwegian), `1e-5` a number, a date a text."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [pair for pair in pairs if pair[0].rpartition(":")[2] not in ("bool", "float", "timestamp")]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?((\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|\.(inf|nan))$"),
    list("-+.0123456789"),
)


def read_yaml(path: str | Path, expected: str | None = None) -> dict[str, Any]:
    """Read a YAML mapping.

    Args:
        path: of the file.
        expected: what it should hold, to be said where there is no such file (default: a recipe).
    """
    file = Path(path)
    if not file.is_file():
        found = "this is a folder" if file.is_dir() else "there is no such file"
        if expected is not None:
            raise FileNotFoundError(f"{file}: {found}; expected YAML with {expected}.")
        place = files("drdecr.recipes")
        wrong = f"{found}; expected a recipe" if file.is_dir() else "no such recipe"
        raise FileNotFoundError(f"{file}: {wrong}. The ones that come with the package are in {place}.")
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: expected YAML ({error}).") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file}: expected `key: value` lines, got {type(content).__name__}.")
    return content


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """Parse `--key value` and `--key=value`; values are read as YAML, so `1e-5`, `true` and `[1, 2]` mean what they say.

    >>> parse_overrides(["--data.dev_texts", "10", "--bf16=true"])
    {'data.dev_texts': 10, 'bf16': True}
    """
    rest = list(arguments)
    overrides: dict[str, Any] = {}
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or len(word) < 3:
            raise ValueError(f"Expected `--key value`, got {word!r}.")
        key, equals, text = word[2:].partition("=")
        if not equals:
            if not rest:
                raise ValueError(f"--{key}: expected a value after it.")
            text = rest.pop(0)
        try:
            overrides[key.replace("-", "_")] = yaml.load(text, _Loader)
        except yaml.YAMLError as error:
            raise ValueError(
                f"--{key}: expected a value in YAML, got {text!r}. Put texts with signs in quotes."
            ) from error
    return overrides


def _of_class(described: type) -> Iterator[tuple[str, Any, str]]:
    meanings = argument_meanings(described)
    for name, parameter in inspect.signature(described).parameters.items():
        if name in meanings and name != "tokenizer":
            yield name, parameter.default, meanings[name]


def _default(described: "Field[Any]") -> Any:
    if described.default is not MISSING:
        return described.default
    return described.default_factory() if described.default_factory is not MISSING else inspect.Parameter.empty


def argument_meanings(described: type) -> dict[str, str]:
    """Return what a docstring's section `Args:` says of each argument, in one line each."""
    text = inspect.getdoc(described) or ""
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", text, re.DOTALL | re.MULTILINE)
    entries = re.findall(
        r"^    (\w+): (.*?)(?=^    \S|\Z)", section.group(1) if section else "", re.DOTALL | re.MULTILINE
    )
    return {name: re.sub(r"\s+", " ", meaning).strip() for name, meaning in entries}


def _part(title: str, keys: Iterator[tuple[str, Any, str]], width: int) -> str:
    lines = [title]
    for name, default, meaning in keys:
        is_told = default is not inspect.Parameter.empty and not callable(default) and "factory" not in repr(default)
        value = f" = {default!r}" if is_told and default not in (None, "") else ""
        lines += [
            f"  {name}{value}",
            textwrap.fill(meaning, width, initial_indent="      ", subsequent_indent="      "),
        ]
    return "\n".join(line for line in lines if line.strip()) + "\n"
