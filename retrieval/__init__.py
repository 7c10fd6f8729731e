"""Search over encoded passages with MaxSim: in memory, on disk, and with candidates for more than can all be scored."""

from .exact import ExactIndex
from .protocol import Hits, PassageIndex
from .stored.index import StoredIndex
from .stored.manifest import DamagedIndexError
from .stored.pooling import pool_tokens

__all__ = ["DamagedIndexError", "ExactIndex", "Hits", "PassageIndex", "StoredIndex", "pool_tokens"]
