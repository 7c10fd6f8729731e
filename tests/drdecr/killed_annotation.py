"""What test_annotating.py starts: `killed_annotation.py ROWS TEACHER KILLED WHOLE` annotates twice, once killed ten times."""

import os
import random
import signal
import sys
from pathlib import Path

from drdecr.data.teacher.annotate import AnnotationSettings, annotate

KILLS = 10


def dying(countdown: int) -> None:
    """Kill this process at its `countdown`-th write: with the file half there, or with it there and nothing that says so."""
    fsync, replace, left = os.fsync, Path.replace, [countdown]

    def counted() -> None:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    def dying_fsync(descriptor: int) -> None:
        counted()
        fsync(descriptor)

    def dying_replace(self: Path, target: Path) -> None:
        replace(self, target)
        counted()

    os.fsync, Path.replace = dying_fsync, dying_replace  # type: ignore[assignment, method-assign]


def main(rows: str, teacher: str, killed: str, whole: str) -> None:
    settings = AnnotationSettings(rows, teacher=teacher, tokens="all", rows_a_shard=2, batch_size=1)
    random.seed(0)
    for _ in range(KILLS):  # before this process computes anything: threads do not survive a fork
        countdown = random.randint(1, 13)
        child = os.fork()
        if child == 0:
            dying(countdown)
            annotate(settings, Path(killed))
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        shards = len(list(Path(f"{killed}.parts").rglob("*.safetensors")))
        sys.stdout.write(f"killed by {os.WTERMSIG(status)} with {shards} shards\n")
    sys.stdout.flush()
    annotate(settings, Path(killed))
    annotate(settings, Path(whole))


if __name__ == "__main__":
    main(*sys.argv[1:])
