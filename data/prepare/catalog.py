"""Sources that are known by name: where each comes from, under which licence, how it is read, and what must be in it."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from rich import box
from rich.table import Table

from drdecr.data.readers.text import expanded
from drdecr.data.sources import PATH_KEYS, files_of, open_stream

from .download import download, download_members, download_pairs

CATALOGUE = Path(__file__).with_name("catalog.yaml")

ROLES = ("train", "test", "both")
"""`test` is never trained on; `both` is a benchmark that some train on, and then no longer measure on."""


@dataclass(frozen=True)
class Source:
    """A public source.

    Args:
        name: by which recipes call it.
        title: what it is.
        role: one of `ROLES`.
        home: its page.
        entry: how it is read (`open_stream`); files below `$DRDECR_DATA`.
        licence: as its page says; empty where that was not seen.
        revision: of what was seen, where it has one.
        files: where files come from: `path` below `$DRDECR_DATA`, `url`, perhaps its `sha256` (of files of several languages
            by name), the `md5` of what the address gives, of a tar archive the `member` that becomes the file, of two
            aligned texts, which become tab-separated pairs, the address of the `english` one (`download_pairs`), and `only`
            for the language that an address is of.
        expected: `rows` by table, digests of the `first` and the `last` row that is no passage, and of sources in several
            languages such rows by `languages`.
        copy_ends: those two digests of a re-packed copy, where the published file's order was not seen: not checked.
        note: what else to know.
        tried: `real` if its own files were read and counted, `form` if files of the same form were.
    """

    name: str
    title: str
    role: str
    home: str
    entry: Mapping[str, Any]
    licence: str = ""
    revision: str = ""
    files: tuple[Mapping[str, Any], ...] = ()
    expected: Mapping[str, Any] = field(default_factory=dict)
    copy_ends: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    tried: str = "form"

    def __post_init__(self) -> None:
        """Check what a slip of the pen in the catalogue would change."""
        if self.role not in ROLES or self.tried not in ("real", "form"):
            raise ValueError(
                f"{self.name}: expected a role of {', '.join(ROLES)} and tried real or form, got {self.role}, {self.tried}."
            )

    @property
    def is_by_name(self) -> bool:
        """Whether it is read by a name, from the Hub or by `ir_datasets`, and not from files."""
        return self.entry["format"] in ("hub", "ir_datasets")

    def is_here(self) -> bool:
        """Tell whether all its files are on disk. What the Hub or `ir_datasets` would get is not."""
        try:
            return bool(list(files_of(self.entry)))
        except (FileNotFoundError, ValueError):
            return False

    def download(self) -> list[Path]:
        """Get the files that are not here yet.

        Raises:
            ValueError: if it has none that can be got, or `DRDECR_DATA` is not set.
        """
        if not self.files:
            raise ValueError(f"{self.name}: no address of its files is known. {self.by_hand}")
        if "DRDECR_DATA" not in os.environ:
            raise ValueError(
                "The environment variable DRDECR_DATA is not set. Set it to the folder that holds the data."
            )
        root = Path(os.environ["DRDECR_DATA"])
        found: list[Path] = []
        archives: dict[str, list[Mapping[str, str]]] = {}
        for file in self._wanted():
            if "member" in file:
                archives.setdefault(file["url"], []).append(file)
            elif "english" in file:
                more = {key: file[key] for key in ("sha256", "text_after") if key in file}
                found.append(download_pairs(file["url"], file["english"], root / file["path"], **more))
            else:
                found.append(download(file["url"], root / file["path"], file.get("sha256"), file.get("md5")))
        for url, members in archives.items():  # all that is wanted of one archive costs one download
            paths = {file["member"]: root / file["path"] for file in members}
            digests = {file["member"]: file["sha256"] for file in members if "sha256" in file}
            found.extend(download_members(url, paths, digests, members[0].get("md5")))
        return found

    @property
    def by_hand(self) -> str:
        """How to get files that have no address."""
        said = f" {self.note}" if self.note else ""
        return f"Get them from {self.home}, and put them where the entry looks for them ({self._paths()}).{said}"

    def _paths(self) -> str:
        return ", ".join(self.entry[key] for key in PATH_KEYS if isinstance(self.entry.get(key), str))

    @property
    def caution(self) -> str:
        """What was not verified; nothing of a source whose own files were read."""
        if self.tried == "real":
            return ""
        licence = "its licence and its counts were" if self.licence else "its licence is not known, and its counts were"
        return f"Unverified: only files of the same form were read, {licence} not checked."

    def _wanted(self) -> Iterator[dict[str, str]]:
        """Yield each file that `files` names, those of several languages one by one, with the digest of that one."""
        languages = self.entry.get("languages") or []
        names = list(languages.values()) if isinstance(languages, Mapping) else languages
        for file in self.files:
            for name in names if "{language}" in file["path"] else [""]:
                if file.get("only", name) != name:
                    continue
                digest = file.get("sha256")
                of_one = digest.get(name) if isinstance(digest, Mapping) else digest
                pairs = {"pair": "-".join(sorted((name, "en"))), "pair_eng": "-".join(sorted((name, "eng")))}
                found = {key: value for key, value in file.items() if key != "sha256"}
                for word, value in {"language": name, **pairs}.items():
                    found = {key: text.replace(f"{{{word}}}", value) for key, text in found.items()}
                yield {**found, "sha256": of_one} if of_one else found

    def narrowed(self, arguments: Mapping[str, Any]) -> "Source | None":
        """Return the source with arguments of a recipe, and what must still be in it; None if nothing is known of that.

        Args:
            arguments: that take the place of its entry's. Of some of its languages the rows are known, and a `name` changes ids
                alone; whatever else is given may name other files.
        """
        known = dict(self.expected)
        if set(arguments) - {"languages", "name"} or not known:
            return None
        if "name" in arguments:  # stands in the ids, of which the digests are made
            known = {key: value for key, value in known.items() if key in ("rows", "languages")}
        if "languages" in arguments:
            own, wanted = _by_file(self.entry.get("languages")), _by_file(arguments["languages"])
            counts = self.expected.get("languages", {})
            if not wanted or any(own.get(name) not in counts for name in wanted):
                return None
            known = {"languages": {code: counts[own[name]] for name, code in wanted.items()}}
        return replace(self, entry={**self.entry, **arguments}, expected=known)

    def check(self) -> None:
        """Compare what its files hold with what the catalogue says of them.

        Raises:
            ValueError: if they hold other rows, naming the files.
        """
        if not self.expected:
            return
        found = facts_of(self.entry)
        wrong = [f"{key} {self.expected[key]}" for key in self.expected if found.get(key) != self.expected[key]]
        if wrong:
            got = ", ".join(f"{key} {found.get(key)}" for key in self.expected)
            raise ValueError(
                f"{self.name}: expected {', '.join(wrong)}, got {got}, in {self._files_in_words(found)}. Cut off, or of another "
                "version: get them again, or write the entry itself into the recipe in place of the name."
            )

    def _files_in_words(self, found: Mapping[str, Any]) -> str:
        """Name the files of the languages that have other rows than expected, or all that are read."""
        expected = self.expected.get("languages", {})
        names = {code: name for name, code in _by_file(self.entry.get("languages")).items()}
        wrong = [names.get(code, code) for code in expected if found["languages"].get(code) != expected[code]]
        path = self.entry.get("path")
        if wrong and isinstance(path, str) and "{language}" in path:
            return ", ".join(str(expanded(path.replace("{language}", name))) for name in wrong)
        return ", ".join(map(str, files_of(self.entry)))


def _by_file(languages: Any) -> dict[str, str]:
    """Return `{name in the path: code}` of a reader's languages, the shape of which its reader checks."""
    if isinstance(languages, Mapping):
        return {str(name): str(code) for code, name in languages.items()}
    return {str(code): str(code) for code in languages} if isinstance(languages, list) else {}


@lru_cache(maxsize=1)
def catalogue() -> Mapping[str, Source]:
    """Return the known sources by name."""
    content = yaml.safe_load(CATALOGUE.read_text(encoding="utf-8"))
    known = {f.name for f in fields(Source)}
    for name, facts in content.items():
        if unknown := set(facts) - known:
            raise ValueError(f"{CATALOGUE.name}, {name}: unknown {', '.join(sorted(unknown))}. Correct the catalogue.")
    return {
        name: Source(name=name, **{**facts, "files": tuple(facts.get("files", ()))}) for name, facts in content.items()
    }


def source_named(name: str) -> Source:
    """Return a known source.

    Raises:
        ValueError: for a name that is not known.
    """
    if name not in catalogue():
        raise ValueError(
            f"source: expected a name of `drdecr data sources`, got {name!r}. Or give its `format` and arguments."
        )
    return catalogue()[name]


def facts_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Count an entry's rows by table and language, and digest the first and the last one that is no passage.

    Returns:
        `rows` by table, those that are no passages by `languages`, `first` and `last` as the first 16 hexadecimal digits of the
        SHA-256 of the row as JSON.
    """
    counts: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    ends: list[str] = []
    row: Mapping[str, Any] | None = None
    for table, found in open_stream(entry):
        if table == "left_out":
            continue
        counts[table] += 1
        if table != "passages":
            row = found
            languages[found["language"]] += 1
            ends = ends or [_digest(found)]
    known = {"rows": dict(counts), "languages": dict(languages)}
    return known | ({"first": ends[0], "last": _digest(row)} if row is not None else {})


def _digest(row: Mapping[str, Any]) -> str:
    text = json.dumps(row, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def source_table() -> Table:
    """Return a table of every known source, no wider than 80 characters."""
    table = Table(box=box.SIMPLE, caption="All of one: drdecr data sources NAME", caption_justify="left")
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
