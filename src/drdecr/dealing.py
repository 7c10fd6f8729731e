"""A collection dealt to its shards: read once, and written beside them, so that each is encoded from its own documents.

```
folder/write.lock               held by the process that deals
folder/documents/dealt.json     written last: from what, and how many documents each shard got
folder/documents/00000.jsonl    the documents of a shard, and where each stands in the source
folder/documents/00000.json     when the shard is made: what its maker says of it
```

On the disk, not in memory: what waits there may be as large as the collection, which is some percent of its vectors; a shard is
encoded from beginning to end, in commits as large as those of one index; and a call that was killed reads nothing again.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from drdecr.data.documents import Document, located_documents, without_repetition
from drdecr.data.text_files import locate
from drdecr.retrieval.manifest import write_whole
from drdecr.retrieval.shard_manifest import ShardRecord, collect_shards, read_record, shard_folder, shard_of

from . import __version__

DEALT = "documents"
"""Folder, beside the shards, of what was dealt to them."""
DONE = "dealt.json"
CHARACTERS_IN_MEMORY = 1 << 26
"""That wait before they are appended to the files of their shards, of which thousands cannot be open at once."""


@contextmanager
def dealt_documents(source: str, folder: Path, num_shards: int, prune: bool) -> Iterator[None]:
    """Deal a collection, and collect the shards behind the block, in which they are made; then what was dealt is taken away.

    What a call dealt that was killed is taken as it is, unless the source has changed since or cannot tell.

    Args:
        source: as of `read_documents`.
        folder: of shards that were planned.
        num_shards: how many.
        prune: whether shards lose what the source does not have; one that was made otherwise is made again.

    Raises:
        ValueError: while another process does the same; or if the block did not make all shards.
    """
    lock = FileLock(os.fspath(folder / "write.lock"), thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"{folder}: another process is writing to these shards. Wait for it, or end it.") from error
    try:
        made_from = {"drdecr": __version__, "source": state_of(source), "num_shards": num_shards, "prune": prune}
        held = _read(folder / DEALT / DONE)
        if made_from["source"] is None or held is None or {**held, **made_from} != held:
            _deal(source, folder / DEALT, made_from)
        yield
        collect_shards(folder, {n: made for n in range(num_shards) if (made := _made(folder, n)) is not None})
        _take_away(folder / DEALT)
    finally:
        lock.release()


def state_of(source: str) -> str | None:
    """Return what changes when a file or folder does (names, sizes, times); None for what cannot tell, such as the Hub."""
    if source.startswith("hub:"):
        return None
    path = locate(source).resolve()
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    stats = [(str(one), one.stat().st_size, one.stat().st_mtime_ns) for one in files]
    return hashlib.sha256(json.dumps(stats).encode("utf-8", "surrogatepass")).hexdigest()


def _take_away(target: Path) -> None:
    (target / DONE).unlink(missing_ok=True)  # first: without it nothing of the rest counts
    shutil.rmtree(target, ignore_errors=True)


def _deal(source: str, target: Path, made_from: dict[str, Any]) -> None:
    num_shards: int = made_from["num_shards"]
    _take_away(target)
    target.mkdir(exist_ok=True)
    counts = [0] * num_shards
    waiting: dict[int, list[str]] = {}
    size = 0
    for where, document in tqdm(located_documents(source), desc="dealing", unit=" documents", disable=None):
        number = shard_of(document.document_id, num_shards)
        fields = (where, document.document_id, document.text, document.title, document.metadata)
        line = json.dumps(fields, ensure_ascii=False)
        counts[number] += 1
        waiting.setdefault(number, []).append(line)
        size += len(line)
        if size >= CHARACTERS_IN_MEMORY:
            _append(target, waiting)
            waiting, size = {}, 0
    _append(target, waiting)
    _write(target / DONE, {**made_from, "documents": counts})


def _append(target: Path, waiting: dict[int, list[str]]) -> None:
    for number, lines in waiting.items():
        with (target / f"{number:05d}.jsonl").open("a", encoding="utf-8", errors="surrogatepass", newline="\n") as file:
            file.writelines(f"{line}\n" for line in lines)


def documents_for(folder: Path, number: int) -> Iterator[Document]:
    """Yield what was dealt to a shard.

    Raises:
        ValueError: for an id that stands twice, with its place in the source; or at the end, if documents are missing.
    """
    path, count = folder / DEALT / f"{number:05d}.jsonl", 0
    expected = _expected(folder, number)
    for document in without_repetition(_lines(path)):
        count += 1
        yield document
    if count != expected:
        (folder / DEALT / DONE).unlink(missing_ok=True)  # what a machine that lost its power left; it is dealt again
        raise ValueError(f"{path}: expected {expected} documents, found {count}. Give the same command again.")


def _lines(path: Path) -> Iterator[tuple[str, Document]]:
    """Yield documents with their places in the source, up to the first line that is damaged; none where there is no file."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="surrogatepass", newline="\n") as file:
        for line in file:
            try:
                where, *fields = json.loads(line)
            except ValueError:
                return
            yield where, Document(*fields)


def _expected(folder: Path, number: int) -> int:
    path = folder / DEALT / DONE
    held = _read(path)
    if held is None:
        raise ValueError(f"{path}: expected what each shard gets, found no such file. Give the same command again.")
    return int(held["documents"][number])


def tell_made(folder: Path, number: int) -> None:
    """Write down that a shard holds all that was dealt to it; by its maker, of what is on the disk now."""
    _write(folder / DEALT / f"{number:05d}.json", asdict(read_record(folder, number)))


def already_made(folder: Path, number: int) -> int | None:
    """Return how many documents a shard got that an unfinished call made; None if it is to be made, or changed since."""
    made = _made(folder, number)
    there = (shard_folder(folder, number) / "manifest.json").is_file()
    return _expected(folder, number) if made is not None and there and made == read_record(folder, number) else None


def _made(folder: Path, number: int) -> ShardRecord | None:
    told = _read(folder / DEALT / f"{number:05d}.json")
    return None if told is None else ShardRecord(**told)


def _read(path: Path) -> dict[str, Any] | None:
    return dict(json.loads(path.read_bytes())) if path.is_file() else None


def _write(path: Path, content: dict[str, Any]) -> None:
    write_whole(path, lambda file: file.write(json.dumps(content).encode()))
