"""The sources that are known by name: as a table for the terminal, and all that is known of one."""

import yaml
from rich import box
from rich.table import Table

from drdecr.data.catalogue import Source, catalogue, source_named


def source_table() -> Table:
    """Return a table of every known source, no wider than 80 characters."""
    table = Table(box=box.SIMPLE, caption="All of one: drdecr prepare --show NAME", caption_justify="left")
    for column in ("name", "role", "rows", "here"):
        table.add_column(column, overflow="fold", no_wrap=column == "name")
    for source in catalogue().values():
        rows = ", ".join(f"{count:,} {name}" for name, count in source.expected.get("rows", {}).items())
        table.add_row(source.name, source.role, rows or "not counted", _here(source))
    return table


def source_in_words(name: str) -> str:
    """Return all that is known of a source, as YAML; its files with the path below `$DRDECR_DATA` and the address.

    Raises:
        ValueError: for a name that is not known.
    """
    source = source_named(name)
    facts = {
        "name": source.name,
        "title": source.title,
        "role": source.role,
        "here": _here(source),
        "home": source.home,
        "revision": source.revision,
        "licence": source.licence,
        "rows": {key: source.expected[key] for key in ("rows", "languages") if key in source.expected},
        "entry": dict(source.entry),
        "files": [dict(file) for file in source.files] or "no address is known",
        "note": source.note,
        "caution": source.caution,
    }
    if source.is_by_name:
        del facts["files"]
    known = {key: value for key, value in facts.items() if value}
    return yaml.safe_dump(known, sort_keys=False, allow_unicode=True, width=100).rstrip()


def _here(source: Source) -> str:
    return "by name" if source.is_by_name else "yes" if source.is_here() else "no"
