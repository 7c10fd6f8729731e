"""What test_annotating.py starts: `killed_annotation.py ROWS TEACHER OUTPUT KILLS` annotates, killed at random points."""

import os
import random
import signal
import sys
import time
from pathlib import Path

from drdecr.annotating import AnnotationSettings, annotate


def main(rows: str, teacher: str, output: str, kills: str) -> None:
    settings = AnnotationSettings(rows, teacher=teacher, tokens="all", rows_a_shard=2, batch_size=1)
    random.seed(int(kills))
    done, longest = 0, 0.4
    while done < int(kills):
        child = os.fork()
        if child == 0:
            annotate(settings, Path(output))
            os._exit(0)
        # Later and later, so that the last ones meet the end of the work; never so late that it is done.
        time.sleep(random.uniform(0.05, longest))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if Path(output).exists():
            sys.stdout.write(f"done after {done} kills\n")
            break
        done += 1
        parts = Path(f"{output}.parts")
        shards = len(list(parts.rglob("*.safetensors"))) if parts.exists() else 0
        sys.stdout.write(f"killed with {shards} shards\n")
        longest = min(longest * 1.3, 3.0)
    sys.stdout.flush()
    annotate(settings, Path(output))


if __name__ == "__main__":
    main(*sys.argv[1:])
