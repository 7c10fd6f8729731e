"""Files that are written whole or not at all, their checksums, and digests of texts."""

import hashlib
import json
import os
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

SUMS = "SHA256SUMS"
SHARDS = (".parquet", ".safetensors")
"""Files whose checksums stand in `SUMS`."""

STALE_SECONDS = 24 * 3600.0
"""An unfinished file of another machine is nobody's after this time."""

_SUFFIX = ".unfinished"


@contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """Give a name to write to, whose content takes the file's name when all of it is on the disk.

    The name says which process writes it, so that several may write to one folder (`clear_unfinished`).
    """
    unfinished = file.with_name(f".{file.name}.{socket.gethostname()}-{os.getpid()}{_SUFFIX}")
    try:
        yield unfinished
        with unfinished.open("rb") as stream:
            os.fsync(stream.fileno())
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


def write_atomically(file: Path, content: bytes) -> None:
    """Write a file whole or not at all, on the disk before it has its name."""
    with whole_file(file) as unfinished:
        unfinished.write_bytes(content)


def write_json(file: Path, content: Any, sort_keys: bool = True) -> None:
    """Write a JSON file whole or not at all."""
    text = json.dumps(content, indent=2, ensure_ascii=False, sort_keys=sort_keys) + "\n"
    write_atomically(file, text.encode("utf-8"))


def read_json(file: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: naming the file, if it was cut off or changed.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{file}: expected JSON ({error}). Delete the folder that it is in, and make it anew."
        ) from error


def clear_unfinished(folder: Path) -> None:
    """Delete what writes that were killed have left in a folder; what a living process is writing there stays.

    Of another machine, whose processes are not known here, only what is a day old is deleted.
    """
    for file in folder.glob(f".*{_SUFFIX}"):
        host, _, process = file.name.removesuffix(_SUFFIX).rpartition("-")
        is_ours = host.endswith(f".{socket.gethostname()}") and process.isdigit()
        if is_ours and int(process) != os.getpid() and _is_alive(int(process)):
            continue
        try:
            if is_ours or time.time() - file.stat().st_mtime > STALE_SECONDS:
                file.unlink()
        except FileNotFoundError:  # another process was quicker
            continue


def digest_of(file: Path, algorithm: str = "sha256") -> str:
    """Return a file's SHA-256, or its digest by another of `hashlib`'s algorithms."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def write_sums(folder: Path, digests: Iterable[tuple[str, str]] | None = None) -> None:
    """Write `SUMS` of a folder.

    Args:
        folder: of the shards.
        digests: path and digest of each; default: those of all shards in the folder and below it.
    """
    if digests is None:
        files = sorted(path for path in folder.rglob("*") if path.suffix in SHARDS)
        digests = ((path.relative_to(folder).as_posix(), digest_of(path)) for path in files)
    write_atomically(folder / SUMS, "".join(f"{digest}  {path}\n" for path, digest in digests).encode())


def check_sums(folder: Path, lines: str | None = None, below: str = "", cure: str = "Get the folder again.") -> int:
    """Compare files with their checksums; every byte is read once, about a second a GB.

    Args:
        folder: that the paths begin in.
        lines: in the form of `sha256sum`; default: the folder's `SUMS`.
        below: check only paths that begin with this.
        cure: what to do about a shard that is not as it was written.

    Returns:
        How many files were checked.

    Raises:
        ValueError: naming the first file that is missing or not as it was written.
    """
    text = (folder / SUMS).read_text(encoding="utf-8") if lines is None else lines
    wanted = [(path, digest) for digest, _, path in (line.partition("  ") for line in text.splitlines())]
    wanted = [(path, digest) for path, digest in wanted if path.startswith(below)]
    for path, expected in tqdm(wanted, desc="checking", unit="shard", disable=None if len(wanted) > 8 else True):
        file = folder / path
        if not file.exists():
            raise ValueError(f"{file}: this shard is missing. Copy it again, or delete {folder} and make it anew.")
        if digest_of(file) != expected:
            raise ValueError(broken_shard(file, cure))
    return len(wanted)


def broken_shard(file: Path, cure: str) -> str:
    """Return what is said of a shard that is damaged."""
    return f"{file}: this shard is not as it was written, it was cut off or changed. {cure}"


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


KEY_BYTES = 16


def text_key(text: str) -> bytes:
    """Return what stands for a text in a shard: the first 16 bytes of its SHA-256."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:KEY_BYTES]


class TextKeys(Sequence[bytes]):
    """Keys of many texts in `KEY_BYTES` each.

    Args:
        content: of all keys, one behind the other.
    """

    def __init__(self, content: bytes | bytearray) -> None:
        self.content = content

    @classmethod
    def of(cls, texts: Iterable[str]) -> "TextKeys":
        """Make the keys of texts, which are read once."""
        content = bytearray()
        for text in texts:
            content += text_key(text)
        return cls(content)

    def __len__(self) -> int:
        return len(self.content) // KEY_BYTES

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[number] for number in range(len(self))[place]]
        return bytes(self.content[place * KEY_BYTES : (place + 1) * KEY_BYTES])

    def __iter__(self) -> Iterator[bytes]:
        return (bytes(self.content[at : at + KEY_BYTES]) for at in range(0, len(self.content), KEY_BYTES))

    def digest(self) -> str:
        """Return one digest of all keys in their order."""
        return hashlib.sha256(self.content).hexdigest()

    def different(self) -> list[int]:
        """Return where each different key stands first, ascending."""
        halves = np.frombuffer(self.content, dtype="<u8").reshape(-1, 2)
        order = np.lexsort((halves[:, 1], halves[:, 0]))  # stable: of equal keys the first one comes first
        in_order = halves[order]
        is_new = np.ones(len(order), dtype=np.bool_)
        is_new[1:] = (in_order[1:] != in_order[:-1]).any(axis=1)
        return np.sort(order[is_new]).tolist()


def value_digest(value: Any) -> str:
    """Return a digest of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def check_survives_json(name: str, value: Any) -> None:
    """Refuse what JSON would change or lose: tuples, sets, keys that are no strings, NaN, arrays.

    Args:
        name: how the error calls the value.
        value: what is to be kept.

    Raises:
        ValueError: when reading back would not give an equal value of the same kind.
    """
    try:
        survived = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must hold only what JSON can, got {value!r}: {error}. Use str, numbers, lists."
        ) from error
    if survived != value:
        raise ValueError(f"{name} would come back from JSON as {survived!r}, got {value!r}. Use lists and string keys.")


def write_json_exactly(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write to a file beside the goal and rename it: whoever reads sees the old file or the new, never a part.

    Args:
        path: file to write; its folder must exist.
        content: what to write; floats are kept to the last bit.

    Raises:
        ValueError: for NaN or infinity, which JSON does not know; the old file stays.
        OSError: when the folder is missing or full; the old file stays.
    """
    path = Path(path)
    text = json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # same folder, so that renaming is one step
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # without it a crash of the machine can leave the new name on an empty file
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_json_object(path: str | Path, *keys: str) -> dict[str, Any]:
    """Read an object and check that it has the keys wanted.

    Args:
        path: file to read.
        keys: what the object must hold.

    Returns:
        The object.

    Raises:
        ValueError: for a file that is no JSON object or lacks a key; the message names the file.
    """
    try:
        content: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no whole JSON file: {error}. Make it again.") from error
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise ValueError(f"{path} should hold {', '.join(keys)}, but lacks {', '.join(missing)}. Is it another file?")
    return content


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: an interrupted write leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.chmod(unfinished, 0o644)
        os.replace(unfinished, path)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise
