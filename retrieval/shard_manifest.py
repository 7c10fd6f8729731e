"""Shards of one collection side by side, and the manifest that says what they are and that all of them are there.

```
folder/shards.json        how many shards, what they were made with, and each one's last commit
folder/shard-00000/       a `StoredIndex`
```
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from .manifest import NAME as INDEX_NAME
from .manifest import DamagedIndexError, Manifest, damages, differences, write_whole

FORMAT, VERSION = "drdecr-shards", 1
NAME = "shards.json"
PART = "shard"
"""Key, in what a shard's own manifest remembers, of its number and of how many there are."""


@dataclass(frozen=True)
class ShardRecord:
    """One shard as it was when the shards were last collected.

    Args:
        commit: number of its commit.
        passages: passages of that commit, deleted ones too.
        sha256: of its `manifest.json`, which holds the checksums of all its files.
    """

    commit: int
    passages: int
    sha256: str


@dataclass(frozen=True)
class ShardManifest:
    """What a folder of shards consists of.

    Args:
        num_shards: how many; every document belongs to one of them by its id (`shard_of`).
        about: what is remembered, such as the model.
        shards: a record each; none before all of them were made.
    """

    num_shards: int
    about: dict[str, Any] = field(default_factory=dict)
    shards: list[ShardRecord] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """Replace the folder's manifest in one step."""
        content = {"format": FORMAT, "version": VERSION, **asdict(self)}
        text = json.dumps({**content, "sha256": _digest_of(content)}, indent=1, ensure_ascii=False)
        write_whole(folder / NAME, lambda file: file.write(text.encode()))

    @classmethod
    def read(cls, folder: Path) -> "ShardManifest":
        """Read a folder's manifest.

        Raises:
            FileNotFoundError: if there is none.
            DamagedIndexError: if it is none, or was changed.
        """
        path = folder / NAME
        if not path.is_file():
            raise FileNotFoundError(f"{folder}: expected shards, found no {NAME}. Make them: drdecr encode --shards.")
        try:
            content = json.loads(path.read_bytes())
            kept = content.pop("sha256")
            if content["format"] != FORMAT or kept != _digest_of(content):
                raise KeyError("format")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise DamagedIndexError(f"{path}: damaged, or no manifest of shards. Restore it from a copy.") from error
        if content["version"] != VERSION:
            raise ValueError(
                f"{path}: expected format version {VERSION}, got {content['version']}. Use the drdecr that wrote it."
            )
        records = [ShardRecord(**record) for record in content["shards"]]
        return cls(content["num_shards"], content["about"], records)


def _digest_of(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def document_of(passage_id: str) -> str:
    """Return a passage's id without the `#number` of `drdecr encode`: passages of one document share a shard."""
    return re.sub(r"#\d+\Z", "", passage_id)


def shard_of(document_id: str, num_shards: int) -> int:
    """Return the shard of a document: by SHA-256, so that it is the same in every process and every run."""
    digest = hashlib.sha256(document_id.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % num_shards


def shard_folder(folder: Path, number: int) -> Path:
    """Return the folder of a shard."""
    return folder / f"{PART}-{number:05d}"


def about_shard(about: Mapping[str, Any], number: int, num_shards: int) -> dict[str, Any]:
    """Return what a shard itself remembers: the same as all, and which of them it is."""
    return {**about, PART: [number, num_shards]}


def check_plan(folder: Path, num_shards: int, about: Mapping[str, Any]) -> None:
    """Check that shards can be begun in a folder, or gone on with; arguments and errors as of `plan_shards`."""
    if num_shards < 1:
        raise ValueError(f"shards: expected at least 1, got {num_shards}. One a worker is usual.")
    if (folder / NAME).is_file():
        found = ShardManifest.read(folder)
        other = differences({"shards": found.num_shards, **found.about}, {"shards": num_shards, **about})
        if other:
            raise ValueError(
                f"{folder}: made with {other}. Give the same, or another folder (`drdecr index FOLDER NEW --shards N` changes "
                "their number)."
            )
    elif folder.exists():
        names = (path.name for path in folder.iterdir() if not path.match(f".{NAME}.*.tmp"))
        left = next(names, None) if folder.is_dir() else "a file"
        if left is not None:
            raise ValueError(f"{folder}: expected a new or empty folder for shards, found {left}. Choose another.")


def plan_shards(folder: Path, num_shards: int, about: Mapping[str, Any]) -> ShardManifest:
    """Begin a folder of shards, or go on with it.

    Args:
        folder: new, empty, or begun by the same call.
        num_shards: how many.
        about: what they are made with, compared when a call goes on (`manifest.differences`).

    Returns:
        The plan, with what was said of the shards when they were begun.

    Raises:
        ValueError: for a folder of other shards, or of something else.
    """
    check_plan(folder, num_shards, about)
    if not (folder / NAME).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        ShardManifest(num_shards, dict(about)).write(folder)
    return ShardManifest.read(folder)


def collect_shards(folder: Path, made: Mapping[int, ShardRecord] | None = None) -> ShardManifest:
    """Check that every shard is there and fits the others, and write down their commits: from then on all are searched.

    No file of vectors is read: their checksums stand in the shards' own manifests, from who wrote them, and `open` compares
    them. To read 25 TB again would take one process seven hours.

    Args:
        folder: of the shards.
        made: what those who made the shards say of each; all must be as they say (default: sizes of files are compared).

    Raises:
        DamagedIndexError: naming the files that are missing or cut off.
        ValueError: naming the shard that is missing, half made, or does not fit.
    """
    plan = ShardManifest.read(folder)
    found = shard_manifests(folder, plan)
    records = [_record(folder, number, manifest) for number, manifest in enumerate(found)]
    for number, record in enumerate(records):
        own = shard_folder(folder, number)
        if made is not None:
            if made.get(number) != record:
                raise ValueError(
                    f"{own}: half made: expected {_told(made.get(number))} from its maker, found {_told(record)}. Give the "
                    "command that makes it again; it goes on."
                )
        elif not plan.shards or plan.shards[number] != record:
            segments = found[number].segments
            lines = [line for one in segments for line in damages(own / "segments" / one.name, one.files, False)]
            if lines:
                raise DamagedIndexError(f"Damaged shard: {'; '.join(lines)}. Remove this shard and make it again.")
    collected = replace(plan, shards=records)
    if collected != plan:
        collected.write(folder)
    return collected


def _told(record: ShardRecord | None) -> str:
    return (
        "no word" if record is None else f"{record.passages} passages in commit {record.commit} ({record.sha256[:8]})"
    )


def read_record(folder: Path, number: int) -> ShardRecord:
    """Return what a shard is by its last commit."""
    return _record(folder, number, Manifest.read(shard_folder(folder, number)))


def _record(folder: Path, number: int, manifest: Manifest) -> ShardRecord:
    passages = sum(segment.passages for segment in manifest.segments)
    return ShardRecord(manifest.commit, passages, _file_digest(folder, number))


def shard_manifests(folder: Path, plan: ShardManifest) -> list[Manifest]:
    """Read every shard's manifest.

    Raises:
        ValueError: naming the first shard that is not there, that was made as another, or that keeps its vectors in another
            way than the first.
    """
    found: list[Manifest] = []
    for number in range(plan.num_shards):
        own = shard_folder(folder, number)
        if not (own / INDEX_NAME).is_file():
            raise ValueError(f"{own}: this shard is not made yet. Give the command that makes them again.")
        manifest = Manifest.read(own)
        expected = about_shard(plan.about, number, plan.num_shards)
        if manifest.about != expected:
            raise ValueError(
                f"{own}: expected the shard of {expected}, got that of {manifest.about}. Put it back in place, "
                "or remove it and make it again."
            )
        form = (manifest.dim, manifest.codec, manifest.pool_factor)
        if found and form != (found[0].dim, found[0].codec, found[0].pool_factor):
            raise ValueError(
                f"{own}: expected {found[0].dim} dimensions in {found[0].codec} pooled by {found[0].pool_factor} as in the "
                f"first shard, got {form[0]} in {form[1]} pooled by {form[2]}. Make this shard again."
            )
        found.append(manifest)
    return found


def shards_ahead(folder: Path, plan: ShardManifest, found: Sequence[Manifest]) -> list[int]:
    """Return the shards with commits that were not collected: an update is under way, or was killed.

    Raises:
        DamagedIndexError: naming a shard that is older than its record, or another of the same age.
        ValueError: if the shards were never collected.
    """
    if not plan.shards:
        raise ValueError(f"{folder}: its shards are not all made. Give the command that makes them again; it goes on.")
    ahead = []
    for number, (record, manifest) in enumerate(zip(plan.shards, found, strict=True)):
        if manifest.commit > record.commit:
            ahead.append(number)
        elif manifest.commit < record.commit or _file_digest(folder, number) != record.sha256:
            raise DamagedIndexError(
                f"{shard_folder(folder, number)}: expected commit {record.commit} as {NAME} has it, got commit "
                f"{manifest.commit} of other content. Restore this shard from a copy."
            )
    return ahead


def _file_digest(folder: Path, number: int) -> str:
    return hashlib.sha256((shard_folder(folder, number) / INDEX_NAME).read_bytes()).hexdigest()
