"""Search over encoded passages with MaxSim: in memory, on disk, and with candidates for more than can all be scored."""

from .exact import ExactIndex, Hits
from .manifest import DamagedIndexError
from .pooling import pool_tokens
from .protocol import PassageIndex
from .stored import StoredIndex

__all__ = ["DamagedIndexError", "ExactIndex", "Hits", "PassageIndex", "StoredIndex", "pool_tokens"]
