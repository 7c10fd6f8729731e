"""`drdecr data prepare`: from the names of sources to a folder of shards that says where every row came from."""

import json
import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from drdecr.data.cards import prepared_card
from drdecr.data.files import digest_of, read_json, value_digest, write_json, write_sums
from drdecr.data.provenance import PeakMemory, environment, hub_revision, in_words, redact_paths
from drdecr.data.shards import hold
from drdecr.data.sources import FORMATS, PATH_KEYS, files_of, held_out_of

from .catalog import Source, catalogue, source_named
from .cleaning import CleaningSettings, text_key
from .leakage import HeldOutPassages, HeldOutTexts
from .preparation import Preparation
from .prepared_shards import PROVENANCE, read_provenance, shards_of
from .row_cleaner import Cleaner, PreparedSource

logger = logging.getLogger(__name__)


@dataclass
class PrepareRecipe:
    """What is prepared.

    Args:
        sources: each `{source: NAME}` of the catalogue or `{name: ..., format: ..., arguments}`. Beside what its reader
            takes, an entry may have `share` (of its rows, drawn with the seed) and `about` (`license`, `source`: for the card).
        held_out: evaluation sets whose questions must not be trained on, in the same form, or
            `{format: texts, path, column}`. The test sets of the catalogue that are on disk are held out in any case.
        cleaning: how strict the checks are.
        seed: of the shares (default 12345).
        rows_per_part: rows that are read for one shard a language (default 100,000). A killed run goes on with the part that
            it was in.
        license: of the whole, for the card.
    """

    sources: list[dict[str, Any]]
    held_out: list[dict[str, Any]] = field(default_factory=list)
    cleaning: CleaningSettings = field(default_factory=CleaningSettings)
    seed: int = 12345
    rows_per_part: int = 100_000
    license: str | None = None

    def __post_init__(self) -> None:
        """Check that something is prepared."""
        if not self.sources:
            raise ValueError("expected `sources`, got none. Name some: `drdecr data sources` shows what is known.")


@dataclass(frozen=True)
class Entry:
    """A source of a recipe, resolved.

    Args:
        prepared: what is read.
        facts: what is known of it, for the provenance.
        known: the source of the catalogue with what must be in what is read, where that is known.
    """

    prepared: PreparedSource
    facts: dict[str, Any]
    known: Source | None = None


def prepare(recipe: PrepareRecipe, folder: Path, num_processes: int = 1, download: bool = False) -> Path:
    """Prepare a folder; leave it alone if it is there, and go on where an interrupted call was.

    Args:
        recipe: what is prepared.
        folder: of the shards, with `README.md`, `provenance.json` and `recipe.yaml`. It appears when all is done.
        num_processes: that check rows (default 1). The bytes are the same for any number.
        download: get the catalogue's files that are not here (default False).

    Returns:
        The folder.

    Raises:
        ValueError: for a test set among the sources, a wrong row (naming file and row), or a folder of another recipe or
            at which another call is at work.
    """
    memory = PeakMemory()
    if folder.name in ("", ".."):  # beside it, under its name, lies what is not finished
        raise ValueError(f"{folder}: expected a folder with a name of its own. Give one that is not there yet.")
    entries = [resolved(entry, download) for entry in recipe.sources]
    _check_names(entries)
    held_out, held_out_passages, held_out_facts = _held_out(recipe)
    plan = _plan(recipe, [entry.facts for entry in entries], held_out_facts)
    shards, journal = (folder.with_name(f".{folder.name}.{kind}") for kind in ("unfinished", "journal"))
    if folder.exists():
        _check_same(read_provenance(folder)["plan"], plan, folder)
        logger.warning("%s is prepared already.", folder)
        shutil.rmtree(journal, ignore_errors=True)  # a call may have been killed when all but this was done
        return folder
    cleaner = Cleaner(recipe.cleaning, held_out, recipe.seed, held_out_passages)
    journal.mkdir(parents=True, exist_ok=True)
    lock = hold(journal)
    try:
        begun, outdated = _checked_start(recipe, entries, held_out_facts, journal)
        work = Preparation(shards, journal, cleaner, recipe.rows_per_part, num_processes)
        work.forget(outdated)
        begun.write()
        reports = work.run([entry.prepared for entry in entries])
        _finish(shards, recipe, plan, reports)
        os.replace(shards, folder)
    except Exception:
        if not any(journal.glob("*/*.json")):  # no part is done that another call could go on from
            for left in (shards, journal):
                shutil.rmtree(left, ignore_errors=True)
        raise
    finally:
        lock.release()
    shutil.rmtree(journal)
    if told := in_words(memory.peaks):  # not written: the folder has the same bytes whatever was killed on the way
        logger.info("%s: %s.", folder, told)
    return folder


class Begun:
    """What a preparation is begun with, compared with what its journal was begun with.

    Args:
        journal: of the preparation; need not be there.
        settings: what all its rows depend on, values that JSON can hold.
        sources: name of each source, and what its rows depend on beside that and the sources before it.
    """

    def __init__(self, journal: Path, settings: Any, sources: Iterable[tuple[str, Any]]) -> None:
        self.file = journal / "plan.json"
        self._settings = value_digest(settings)
        self._sources = [[name, value_digest(facts)] for name, facts in sources]

    def outdated(self) -> list[str]:
        """Return the sources of the journal whose rows must be made again: the first that is another now, and all after it.

        Raises:
            ValueError: if it was begun with other settings, or with other sources than those that are given, or some of them
                first: what is done would be lost by a wrong folder's name.
        """
        if not self.file.exists():
            return []
        begun = read_json(self.file)
        before = begun.get("sources", [])
        names = [[name for name, _ in sources] for sources in (before, self._sources)]
        shorter = min(map(len, names))
        if begun.get("settings") != self._settings or names[0][:shorter] != names[1][:shorter]:
            raise ValueError(
                f"{self.file.parent} was begun with other settings, sources or held-out sets. Choose another folder, or "
                "delete it."
            )
        pairs = zip(before, self._sources, strict=False)
        same = next((number for number, (old, new) in enumerate(pairs) if old != new), len(self._sources))
        outdated = names[0][same:]
        if any(file.parent.name in outdated for file in self.file.parent.glob("*/*.json")):
            logger.warning("Made again, for something else is given than in the call before: %s.", ", ".join(outdated))
        return outdated

    def write(self) -> None:
        """Note it down."""
        write_json(self.file, {"settings": self._settings, "sources": self._sources})


def _checked_start(
    recipe: PrepareRecipe, entries: list[Entry], held_out: list[dict[str, Any]], journal: Path
) -> tuple[Begun, list[str]]:
    """Check that the journal is of these settings, and known sources whole; return also which must be made again."""
    settings = {**asdict(recipe), "sources": None, "license": None}
    facts = [(entry.prepared.name, _of_rows(entry.facts)) for entry in entries]
    begun = Begun(journal, [settings, held_out], facts)
    outdated = begun.outdated()
    for entry in entries:
        if entry.known is not None:
            entry.known.check()
    return begun, outdated


def _of_rows(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return those facts of a source that its rows depend on: what is said about it changes none."""
    return {name: facts.get(name) for name in ("name", "format", "arguments", "share", "commit", "files")}


def _plan(recipe: PrepareRecipe, sources: list[dict[str, Any]], held_out: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what is prepared, without this machine's paths, and digests that tell it from another with them."""
    whole = {"recipe": asdict(recipe), "sources": sources, "held_out": held_out}
    return {**redact_paths(whole), "digests": {name: value_digest(part) for name, part in whole.items()}}


def resolved(entry: Mapping[str, Any], download: bool = False) -> Entry:
    """Resolve an entry of a recipe: its reader's arguments, and what is known of its files.

    Raises:
        ValueError: for a test set, an unknown name, an entry without name, or what is no mapping.
    """
    content = _content_of(entry, "sources")
    known = source_named(content.pop("source")) if "source" in content else None
    share, name = content.pop("share", 1.0), content.pop("name_of_source", None)
    if known is not None and known.role == "test":
        raise ValueError(f"{known.name} is a test set: it is held out, and never trained on. Take it out of `sources`.")
    about = content.pop("about", None) or {}
    reads = {**(known.entry if known is not None else {}), **content}
    if reads.get("format") not in FORMATS:
        raise ValueError(f"format: expected one of {', '.join(FORMATS)}, got {reads.get('format')!r} in {dict(entry)}.")
    name = name or (known.name if known is not None else content.get("name") or content.get("format"))
    if not isinstance(name, str) or name[:1] in ("", ".") or not all(part.isalnum() or part in "-_." for part in name):
        raise ValueError(
            "sources: expected a `name_of_source` of letters, digits, -, _ and, not at its beginning, dots, got "
            f"{name!r} in {dict(entry)}."
        )
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise ValueError(f"{name}: expected a `share` above 0 and up to 1, got {share!r}.")
    if known is not None and download:
        _download(known, content)
    facts = {
        "name": name,
        "format": reads.get("format"),
        "arguments": {k: v for k, v in reads.items() if k != "format"},
    }
    facts |= {"share": share, **_revision(reads, known), **_about(known, about)}
    if facts.get("commit"):  # what is streamed is of the state that was looked up
        reads["revision"] = facts["commit"]
    return Entry(
        PreparedSource(name, reads, float(share)), facts, known.narrowed(content) if known is not None else None
    )


def _content_of(entry: Any, key: str) -> dict[str, Any]:
    """Return an entry of a list of the recipe, to be changed."""
    if not isinstance(entry, Mapping):
        name = entry if isinstance(entry, str) else "NAME"
        raise ValueError(
            f"{key}: expected a list of entries like `- {{source: {name}}}` or `- {{format: ...}}`, got {entry!r} in it."
        )
    return dict(entry)


def _download(known: Source, content: Mapping[str, Any]) -> None:
    """Get what is not here of a known source; files that the recipe itself names are the recipe's business."""
    wanted = replace(known, entry={**known.entry, **content})
    if not wanted.is_by_name and not wanted.is_here() and (wanted.files or content.keys().isdisjoint(PATH_KEYS)):
        wanted.download()


def _revision(entry: Mapping[str, Any], known: Source | None) -> dict[str, Any]:
    if str(entry.get("format")).startswith("hub"):
        commit = hub_revision(dict(entry))
        if commit:
            return {"commit": commit}
    try:
        found = list(files_of(entry))
    except FileNotFoundError as error:
        if known is None:
            raise
        cure = "Get it with `drdecr data prepare --download`." if known.files else known.by_hand
        raise FileNotFoundError(f"{known.name}: {error} {cure}") from error
    files = [{"file": _shown(file), "bytes": file.stat().st_size, "sha256": digest_of(file)} for file in found]
    return {"files": files} if files else {}


def _shown(file: Path) -> str:
    """Show a path below the data's folder; of another one the file's name, for the rest is nobody else's business."""
    root = os.environ.get("DRDECR_DATA")
    if root and file.is_relative_to(Path(root)):
        return file.relative_to(root).as_posix()
    return file.name


def _about(known: Source | None, about: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if known is not None:
        found = {"license": known.licence, "source": known.home, "revision": known.revision}
        found["note"] = " ".join(part for part in (known.note, known.caution) if part)
    return {key: value for key, value in {**found, **about}.items() if value}


def _check_names(entries: list[Entry]) -> None:
    names = [entry.prepared.name for entry in entries]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"sources: two are named {twice!r}. Give one a `name_of_source` of its own.")


def _held_out(recipe: PrepareRecipe) -> tuple[HeldOutTexts, HeldOutPassages, list[dict[str, Any]]]:
    """Return the texts that must not be trained on, the passages that answer them, and which set gave how many."""
    texts: list[str] = []
    passages: list[str] = []
    facts: list[dict[str, Any]] = []

    def add(name: str, entry: Mapping[str, Any]) -> None:
        found, answering = held_out_of(entry)
        texts.extend(found)
        passages.extend(answering)
        digest = text_key(json.dumps(found + answering)) & (2**64 - 1)
        facts.append({"name": name, "texts": len(found), "passages": len(answering), "digest": f"{digest:016x}"})

    for source in catalogue().values():
        if source.role != "test":
            continue
        if source.is_here():
            add(source.name, source.entry)
        else:
            facts.append({"name": source.name, "texts": 0, "passages": 0, "digest": "not here"})
    if missing := [found["name"] for found in facts if found["digest"] == "not here"]:
        logger.warning("Not held out, for their files are not, or not all, here: %s.", ", ".join(missing))
    for entry in recipe.held_out:
        content = _content_of(entry, "held_out")
        known = source_named(content.pop("source")) if "source" in content else None
        reads = {**(known.entry if known is not None else {}), **content}
        add(known.name if known is not None else str(reads.get("name") or reads.get("format")), reads)
    held_out = {found["name"] for found in facts}
    measured = [name for name, source in catalogue().items() if source.role == "both" and source.is_here()]
    if left := [name for name in measured if name not in held_out]:
        logger.warning(
            "Not held out, though some measure on them: %s. If you do, name them under `held_out:` (`- {source: %s}`).",
            ", ".join(left),
            left[0],
        )
    return HeldOutTexts(texts), HeldOutPassages(passages), facts


def _check_same(written: Mapping[str, Any], plan: Mapping[str, Any], place: Path) -> None:
    before = written.get("digests", {})
    differs = [name for name, digest in plan["digests"].items() if before.get(name) != digest]
    if differs:
        raise ValueError(
            f"{place} was prepared from something else (what differs: {', '.join(differs)}). Choose another folder, or delete "
            "it."
        )


def _finish(shards: Path, recipe: PrepareRecipe, plan: Mapping[str, Any], reports: list[dict[str, Any]]) -> None:
    sources = [{**facts, **report} for facts, report in zip(plan["sources"], reports, strict=True)]
    made_by = {key: value for key, value in environment().items() if key != "hardware"}
    provenance = {
        "plan": plan,
        "sources": sources,
        "held_out": plan["held_out"],
        "seed": recipe.seed,
        "made_by": made_by,
    }
    (shards / "README.md").write_text(prepared_card(provenance, recipe.license), encoding="utf-8")
    text = yaml.safe_dump(redact_paths(asdict(recipe)), sort_keys=False, allow_unicode=True)
    (shards / "recipe.yaml").write_text(text, encoding="utf-8")
    write_sums(shards, ((shard.path, shard.sha256) for shard in shards_of(provenance)))
    write_json(shards / PROVENANCE, provenance)
