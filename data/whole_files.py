"""Files that are written whole or not at all, and checked against their checksums: what every folder of shards is made with.

`SHA256SUMS` in a folder holds a line `digest  path` for each of its shards; `sha256sum -c SHA256SUMS` checks the folder
without this package. It is written last.
"""

import hashlib
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
