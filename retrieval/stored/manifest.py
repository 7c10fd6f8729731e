"""The manifest of an index on disk: what its last commit consists of. Files are written whole or not at all.

Of the folder, only what bears a writer's own names is read or deleted, whatever a manifest says.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from drdecr.retrieval.protocol import check_count, check_json

from .codecs import check_codec

FORMAT, VERSION = "drdecr-index", 1
MANIFEST_NAME = "manifest.json"
SEGMENT_NAME, FILE_NAME = re.compile(r"s\d{6,}"), re.compile(r"[a-z_]+\.(npy|arrow)|deleted-\d{6,}\.npy")
TEMPORARY_SEGMENT = re.compile(rf"\.{SEGMENT_NAME.pattern}\.\d+\.tmp")
DELETED_ROWS = re.compile(r"deleted-\d{6,}\.npy|\.deleted-\d{6,}\.npy\.\d+\.tmp")
LOCK_NAME = "write.lock"


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

    def check(self) -> None:
        """Raise `ValueError` for a record that no writer makes."""
        if not isinstance(self.name, str) or not SEGMENT_NAME.fullmatch(self.name):
            raise ValueError(f"segment: expected a name such as s000001, got {self.name!r}")
        check_count(f"{self.name}: passages", self.passages)
        check_count(f"{self.name}: tokens", self.tokens, 0)
        if not isinstance(self.files, dict) or not {"offsets.npy", "passages.arrow"} <= self.files.keys():
            raise ValueError(f"{self.name}: expected a segment's files by name, got {self.files!r:.80}")
        for name, entry in self.files.items():
            if not FILE_NAME.fullmatch(name):
                raise ValueError(f"{self.name}: expected files such as vectors.npy, got {name!r}")
            if not isinstance(entry, list) or [type(part) for part in entry] != [int, str]:
                raise ValueError(f"{self.name}: expected size and checksum of {name}, got {entry!r:.80}")
        if self.deleted is not None and self.deleted not in self.files:
            raise ValueError(
                f"{self.name}: expected the list of deleted rows among the files, got {self.deleted!r:.80}"
            )


@dataclass(frozen=True)
class Manifest:
    """What one commit consists of.

    Args:
        commit: its number; 0 is the empty index.
        dim: width of the embeddings.
        codec: how they are kept (`codecs.CODECS`).
        pool_factor: tokens that become one (`pooling.pool_tokens`).
        precision: of the model that encoded them (`encoder.PRECISIONS`).
        metadata: what the maker says: model, how documents were split.
        segments: in the order of their addition.
    """

    commit: int
    dim: int
    codec: str
    pool_factor: int = 1
    precision: str = "float32"
    metadata: dict[str, Any] = field(default_factory=dict)
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
        damaged = f"{path}: damaged, or no manifest of an index"
        try:
            content = json.loads(path.read_bytes())
            checksum, version = content.pop("sha256"), content["version"]
            if content["format"] != FORMAT:
                raise KeyError("format")
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise DamagedIndexError(f"{damaged}. Restore it from a copy.") from error
        if version != VERSION:
            raise ValueError(f"{path}: expected format version {VERSION}, got {version}. Use the drdecr that wrote it.")
        if checksum != _digest_of(content):
            raise DamagedIndexError(f"{path}: damaged, its checksum is another. Restore it from a copy.")
        del content["format"], content["version"]
        try:
            manifest = cls(**{**content, "segments": [SegmentRecord(**record) for record in content["segments"]]})
            manifest.check()
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedIndexError(f"{damaged} ({error}). Restore it from a copy.") from error
        return manifest

    def check(self) -> None:
        """Raise `ValueError` for what no writer says: a checksum tells accidents, not intent.

        A name with a slash would make the reader of a foreign index read, and its writer delete, elsewhere.
        """
        check_count("commit", self.commit, 0)
        check_count("dim", self.dim)
        check_count("pool_factor", self.pool_factor)
        check_codec(self.codec, self.dim)
        if not isinstance(self.precision, str):
            raise ValueError(f"precision: expected a text, got {self.precision!r}")
        check_json("metadata: expected something", self.metadata)
        for record in self.segments:
            record.check()
        names = [record.name for record in self.segments]
        if len(set(names)) < len(names):
            raise ValueError("segments: expected different names")


def differences(actual: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """Return in words what is otherwise than expected, or an empty text.

    Args:
        actual: what an index says of itself.
        expected: what it must say; further keys of `actual` do not count. A `model` of the same `model_digest` may have
            another name: it lies in another place.
    """
    other = [name for name, value in expected.items() if actual.get(name) != value]
    if "model_digest" in expected and "model_digest" not in other:
        other = [name for name in other if name != "model"]
    return "; ".join(f"{name} {actual.get(name)!r}, asked for {expected[name]!r}" for name in other)


def _digest_of(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def write_whole(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file under a temporary name, force it to the disk, and rename it in one step."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:  # not through a link of that name
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


def new_segment_folder(folder: Path, commit: int, is_shared: bool = False) -> Path:
    """Return a folder for a segment of a commit to come, for several processes (`is_shared`) of a name that no other takes."""
    path = folder / "segments" / f"s{commit:06d}"
    return path.with_name(f"{path.name}{secrets.randbelow(10**9):09d}") if is_shared or path.exists() else path


def check_conflict(folder: Path, manifest: Manifest, records: Sequence[SegmentRecord] = ()) -> None:
    """Raise `ValueError` if another writer was here, whose lock was deleted or does not reach this process.

    Args:
        folder: of the index.
        manifest: that this writer opened; it must still be the last.
        records: of segments that it wrote, which must be there.
    """
    is_last = Manifest.read(folder) == manifest
    if not is_last or not all((folder / "segments" / record.name).is_dir() for record in records):
        raise ValueError(
            f"{folder}: another process committed to this index since it was opened here. Its commit stays. Open the index "
            f"again, repeat these changes, and leave {LOCK_NAME} where it is."
        )


def is_unused(folder: Path) -> bool:
    """Tell whether a folder is empty, or was being made into an index when its writer was killed."""
    if not folder.is_dir():
        return False
    segments = folder / "segments"
    others = [path for path in folder.iterdir() if path != segments and not path.match(f".{MANIFEST_NAME}.*.tmp")]
    is_empty = segments.is_dir() and not segments.is_symlink() and not any(segments.iterdir())
    return not others and (is_empty or not os.path.lexists(segments))


def lock_folder(folder: Path) -> FileLock:
    """Take the lock of the one process that commits.

    Raises:
        ValueError: if another process holds it, or a part of the index is a link: what is written and deleted behind it
            would be another folder's.
    """
    for path in (folder / "segments", folder / LOCK_NAME, *(folder / "segments").glob("s*")):
        if path.is_symlink():
            raise ValueError(
                f"{path}: expected no link in an index that is to be changed, for it leads to another folder. Move its target "
                "here, or make a link to the whole index."
            )
    lock = FileLock(os.fspath(folder / LOCK_NAME), thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"{folder}: another process is writing to this index. Wait for it, or end it.") from error
    return lock


def remove_leftovers(folder: Path, manifest: Manifest) -> None:
    """Take away what belongs to no commit: of a writer that was killed, or of the commit before."""
    files_by_segment = {record.name: record.files for record in manifest.segments}
    segments = folder / "segments"
    segments.mkdir(exist_ok=True)  # an empty folder is lost by who copies files alone
    for path in segments.iterdir():
        if path.name in files_by_segment:
            for file in path.iterdir():
                if file.name not in files_by_segment[path.name] and DELETED_ROWS.fullmatch(file.name):
                    file.unlink(missing_ok=True)
        elif SEGMENT_NAME.fullmatch(path.name) or TEMPORARY_SEGMENT.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)  # of a link it deletes nothing
    for file in folder.glob(f".{MANIFEST_NAME}.*.tmp"):
        file.unlink(missing_ok=True)
