"""What test_annotating.py starts with torchrun: `killed_launched_annotation.py SHARDS WORDS ...`, annotate.

The second process is killed behind so many shards of its own; 0: not at all.
"""

import os
import signal
import sys
from pathlib import Path

from drdecr.cli.main import main as run_command_line


def main(shards: str, words: list[str]) -> None:
    real, left = Path.replace, [int(shards)]

    def dying(self: Path, target: Path) -> Path:
        found = real(self, target)
        left[0] -= Path(target).suffix == ".safetensors"
        if not left[0] and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    if left[0]:
        Path.replace = dying  # type: ignore[method-assign]
    sys.argv = ["drdecr", "data", "annotate", *words]
    run_command_line()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
