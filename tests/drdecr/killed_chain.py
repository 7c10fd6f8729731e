"""What test_chain.py starts: `killed_chain.py FOLDER TEACHER` goes from sources to scores twice, once killed ten times."""

import os
import random
import signal
import sys
from functools import partial
from pathlib import Path

from drdecr.data.prepare.prepare import PrepareRecipe, prepare
from drdecr.data.teacher import mine as mining
from drdecr.data.teacher import rankings
from drdecr.data.teacher import translate as translating
from drdecr.data.teacher.annotate import AnnotationSettings, annotate
from drdecr.data.teacher.bm25 import Bm25Index
from drdecr.data.teacher.mine import MiningSettings, mine
from drdecr.data.teacher.translate import TranslationSettings, translate
from drdecr.data.teacher.translation_store import Engine, Translation

KILLS = 10
STEPS = ("prepared", "translated", "mined", "annotated")


class Words:
    """Translates word by word: `z` is `the city`."""

    def __init__(self) -> None:
        self.engine = Engine("words", "1", {}, "length")

    def translate(self, texts: list[str], source: str, target: str = "en") -> list[Translation]:
        return [Translation(text.replace("z", "the city"), -len(text)) for text in texts]


def chain(source: Path, folder: Path, teacher: str) -> None:
    """Prepare, translate, mine and annotate, in small parts."""
    translating.ENGINES["apertium"] = Words
    mining.QUESTIONS_PER_SHARD = rankings.QUESTIONS_PER_SHARD = 3  # type: ignore[misc]
    mining.Bm25Index = partial(Bm25Index, block=5)  # type: ignore[assignment, misc]
    folder.mkdir(exist_ok=True)
    entry = {"name_of_source": "own", "format": "jsonl", "name": "own"}
    entry |= {name: str(source / f"{name}.jsonl") for name in ("questions", "passages")}
    prepared, translated, mined, annotated = (folder / name for name in STEPS)
    prepare(PrepareRecipe([entry], rows_per_part=7), prepared)
    questions = {"format": "prepared_questions", "folder": str(prepared)}
    translate(TranslationSettings([questions], engine="apertium", rows_per_shard=4, length_factor=3.0), translated)
    mine(MiningSettings([{"format": "hub_questions", "name": str(translated)}], num_candidates=3), mined)
    annotate(AnnotationSettings(str(mined), teacher=teacher, tokens="all", rows_per_shard=6), annotated)


def dying(countdown: int) -> None:
    """Kill this process at its `countdown`-th step of writing: before a file is whole, or just after it has its name."""
    left = [countdown]

    def counted() -> None:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    fsync = os.fsync

    def dying_fsync(descriptor: int) -> None:
        counted()
        fsync(descriptor)

    os.fsync = dying_fsync
    for name in ("replace", "rename"):
        move = getattr(Path, name)

        def dying_move(self: Path, target: Path, move=move) -> Path:
            found = move(self, target)
            counted()
            return found

        setattr(Path, name, dying_move)


def main(folder: str, teacher: str) -> None:
    source, work, killed, whole = (Path(folder) / name for name in ("source", "work", "killed", "whole"))
    random.seed(0)
    for _ in range(KILLS):  # before this process computes anything: threads do not survive a fork
        countdown = random.randint(1, 36)
        child = os.fork()
        if child == 0:
            dying(countdown)
            chain(source, work, teacher)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        done = [name for name in STEPS if (work / name).exists()]
        sys.stdout.write(f"killed by {os.WTERMSIG(status)} with {len(done)} steps done\n")
        sys.stdout.flush()
    chain(source, work, teacher)
    work.rename(killed)  # `facts.json` has a digest of the paths
    chain(source, work, teacher)
    work.rename(whole)


if __name__ == "__main__":
    main(*sys.argv[1:])
