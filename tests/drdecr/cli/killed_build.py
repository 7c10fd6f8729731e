"""What test_index.py starts with torchrun: `killed_build.py MODEL DOCUMENTS FOLDER SEGMENTS`.

The second process is killed behind so many segments of its own; 0: not at all.
"""

import os
import signal
import sys

import drdecr.cli.main
from drdecr.retrieval import StoredIndex, build


def main(model: str, documents: str, folder: str, segments: str) -> None:
    build.PASSAGES_PER_COMMIT = 2
    real, left = StoredIndex.write_segment, [int(segments)]

    def dying(self, *arguments):  # type: ignore[no-untyped-def]
        record = real(self, *arguments)
        left[0] -= 1
        if not left[0] and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return record

    StoredIndex.write_segment = dying  # type: ignore[method-assign]
    sys.argv = ["drdecr", "index", "build", model, documents, folder]
    drdecr.cli.main.main()


if __name__ == "__main__":
    main(*sys.argv[1:])
