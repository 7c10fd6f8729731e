"""The manifest of an index on disk: what its last commit consists of, and files that are written whole or not at all."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

FORMAT, VERSION = "drdecr-index", 1
MANIFEST_NAME = "manifest.json"


class DamagedIndexError(ValueError):
    """A file of an index is missing, cut off or changed; the message names it."""


@dataclass(frozen=True)
class SegmentRecord:
    """One segment of a commit.

    Args:
        name: its folder under `segments/`.
        passages: passages in it, deleted ones too.
        tokens: tokens in it.
        files: `{file name: [bytes, sha256]}`.
        deleted: name of the file, in the segment's folder, that lists deleted rows; none if no row is.
    """

    name: str
    passages: int
    tokens: int
    files: dict[str, list[Any]]
    deleted: str | None = None


@dataclass(frozen=True)
class Manifest:
    """What one commit consists of.

    Args:
        commit: its number; 0 is the empty index.
        dim: width of the embeddings.
        codec: how they are kept (`codecs.CODECS`).
        pool_factor: tokens that become one (`pooling.pool_tokens`).
        about: what the maker says: model, how documents were split.
        segments: in the order of their addition.
    """

    commit: int
    dim: int
    codec: str
    pool_factor: int = 1
    about: dict[str, Any] = field(default_factory=dict)
    segments: list[SegmentRecord] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """Replace the folder's manifest in one step; from then on this is the last commit."""
        content = {"format": FORMAT, "version": VERSION, **asdict(self)}
        text = json.dumps({**content, "sha256": _digest_of(content)}, indent=1, ensure_ascii=False)
        write_whole(folder / MANIFEST_NAME, lambda file: file.write(text.encode()))

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read the last commit.

        Raises:
            FileNotFoundError: if there is no index.
            DamagedIndexError: if the manifest is no manifest, or was changed.
        """
        path = folder / MANIFEST_NAME
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder}: expected an index, found no {MANIFEST_NAME}. Make one with `drdecr index build`."
            )
        try:
            content = json.loads(path.read_bytes())
            kept = content.pop("sha256")
            if content.pop("format") != FORMAT:
                raise KeyError("format")
            version = content.pop("version")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise DamagedIndexError(f"{path}: damaged, or no manifest of an index. Restore it from a copy.") from error
        if version != VERSION:
            raise ValueError(f"{path}: expected format version {VERSION}, got {version}. Use the drdecr that wrote it.")
        if kept != _digest_of({"format": FORMAT, "version": version, **content}):
            raise DamagedIndexError(f"{path}: damaged, its checksum is another. Restore it from a copy.")
        segments = [SegmentRecord(**record) for record in content.pop("segments")]
        return cls(**content, segments=segments)


def differences(made: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Return in words what was made otherwise than is wanted, or an empty text.

    Args:
        made: what an index says of itself.
        wanted: what it must say; further keys of `made` do not count. A `model` of the same `model_digest` may have another
            name: it lies in another place.
    """
    other = [name for name, value in wanted.items() if made.get(name) != value]
    if "model_digest" in wanted and "model_digest" not in other:
        other = [name for name in other if name != "model"]
    return "; ".join(f"{name} {made.get(name)!r}, asked for {wanted[name]!r}" for name in other)


def _digest_of(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def write_whole(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file under a temporary name, force it to the disk, and rename it in one step."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Force a folder's names to the disk, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def file_record(path: Path) -> list[Any]:
    """Return `[bytes, sha256]` of a file."""
    with path.open("rb") as file:
        return [path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()]


def damages(folder: Path, files: dict[str, list[Any]], contents: bool = True) -> Iterator[str]:
    """Yield a line for each file of a segment that is missing, has another size or, with `contents`, another checksum."""
    for name, (size, digest) in files.items():
        path = folder / name
        if not path.is_file():
            yield f"{path}: missing"
        elif path.stat().st_size != size:
            yield f"{path}: expected {size} bytes, got {path.stat().st_size}"
        elif contents and file_record(path)[1] != digest:
            yield f"{path}: its checksum is another"
