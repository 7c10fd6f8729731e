"""An open index follows what others commit to it, for as long as it is searched."""

from pathlib import Path

from drdecr.retrieval import ShardedIndex, StoredIndex
from drdecr.retrieval.manifest import NAME, Manifest, differences
from drdecr.retrieval.sharded import LocalShards


class Following:
    """Takes an open index to its last commit; between commits it costs a look at the time of the manifest.

    Args:
        index: a `StoredIndex`, or shards of such in this process. One of another engine, or one with candidates, whose vectors
            belong to one commit, stays as it was opened.
    """

    def __init__(self, index: object) -> None:
        self._indexes = _stored_parts(index)
        self._seen: dict[Path, tuple[int, ...]] = {}

    def follow(self) -> bool:
        """Go to the last commit and return whether there was a newer one. Not while a search is under way.

        Raises:
            OSError or ValueError: if the folder of an index holds one of another model now, a damaged one, or none. The commit
                that was open stays so, and is not tried again before the next one; other shards have gone on.
        """
        newer, errors = False, []
        for index in self._indexes:  # of every shard, also behind one that cannot be followed
            try:
                newer |= self._follow(index)
            except (OSError, ValueError) as error:
                errors.append(error)
        if errors:
            raise errors[0]
        return newer

    def _follow(self, index: StoredIndex) -> bool:
        try:
            stat = (index.folder / NAME).stat()
        except FileNotFoundError:  # taken away; what is open can still be read
            return False
        state = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if self._seen.get(index.folder) == state:
            return False
        self._seen[index.folder] = state  # before it is read: what is committed meanwhile has another one
        now = Manifest.read(index.folder)
        other = differences({**now.about, "dim": now.dim}, {**index.about, "dim": index.dim})
        if other:
            raise ValueError(f"{index.folder}: holds another index now ({other}). Start again to search it.")
        return index.refresh()


def _stored_parts(index: object) -> list[StoredIndex]:
    if isinstance(index, StoredIndex):
        return [index]
    if isinstance(index, ShardedIndex) and isinstance(index.shards, LocalShards):
        shards = list(index.shards.indexes.values())
        return [shard for shard in shards if isinstance(shard, StoredIndex)]
    return []
