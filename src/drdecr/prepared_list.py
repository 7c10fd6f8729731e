"""The sources that are known by name, as a table for the terminal."""

from rich.table import Table

from drdecr.data.catalogue import Source, catalogue


def source_table() -> Table:
    """Return a table of every known source."""
    table = Table(title="Known sources", show_lines=False)
    for column in ("name", "role", "format", "rows", "licence", "here", "what it is"):
        table.add_column(column, overflow="fold", no_wrap=column == "name")
    for source in catalogue().values():
        table.add_row(*_line(source))
    return table


def _line(source: Source) -> list[str]:
    rows = ", ".join(f"{count:,} {name}" for name, count in source.expected.get("rows", {}).items())
    here = "yes" if source.is_here() else "by name" if source.entry["format"] in ("hub", "ir_datasets") else "no"
    title = ". ".join(part.rstrip(".") for part in (source.title, source.note, source.caution) if part)
    return [source.name, source.role, source.entry["format"], rows, source.licence, here, title]
