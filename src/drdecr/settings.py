"""Settings against the dataclass that takes them: known names, and values of the kind that their fields say."""

import difflib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields
from types import UnionType
from typing import Any, TypeVar

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
