"""An open index follows what others commit to it, for as long as it is searched."""

from drdecr.retrieval import StoredIndex
from drdecr.retrieval.manifest import NAME, Manifest, differences


class Following:
    """Takes an open index to its last commit; between commits it costs a look at the time of the manifest.

    Args:
        index: a `StoredIndex`. One of another engine, or one with candidates, whose vectors belong to one commit, stays as it
            was opened.
    """

    def __init__(self, index: object) -> None:
        self._index = index if isinstance(index, StoredIndex) else None
        self._seen: tuple[int, ...] = ()

    def follow(self) -> bool:
        """Go to the last commit and return whether there was a newer one. Not while a search is under way.

        Raises:
            OSError or ValueError: if the folder of the index holds one of another model now, a damaged one, or none. The commit
                that was open stays so, and is not tried again before the next one.
        """
        index = self._index
        if index is None:
            return False
        try:
            stat = (index.folder / NAME).stat()
        except FileNotFoundError:  # taken away; what is open can still be read
            return False
        state = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if self._seen == state:
            return False
        self._seen = state  # before it is read: what is committed meanwhile has another one
        now = Manifest.read(index.folder)
        other = differences({**now.about, "dim": now.dim}, {**index.about, "dim": index.dim})
        if other:
            raise ValueError(f"{index.folder}: holds another index now ({other}). Start again to search it.")
        return index.refresh()
