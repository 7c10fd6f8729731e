"""What test_sharded_encoding.py starts with torchrun: `killed_encoding.py MODEL DOCUMENTS FOLDER SHARDS COMMITS`, encode.

The second process is killed behind so many commits of its own; 0: not at all.
"""

import os
import signal
import sys

from drdecr import encode
from drdecr.launched import run_launched
from drdecr.retrieval import StoredIndex


def main(model: str, documents: str, folder: str, shards: str, commits: str) -> None:
    encode.PASSAGES_A_COMMIT = 2
    real, left = StoredIndex.commit, [int(commits)]

    def dying(self: StoredIndex) -> None:
        real(self)
        left[0] -= 1
        if not left[0] and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)

    StoredIndex.commit = dying  # type: ignore[method-assign]
    run_launched("encode", [model, documents, folder, "--shards", shards])


if __name__ == "__main__":
    main(*sys.argv[1:])
