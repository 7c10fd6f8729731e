"""How fast parallel rows pass preparation, sampling and collation, and how much memory that takes.

    python benchmarks/prepare.py [--rows 1000000] [--processes 1] [--sampled 20000] [--batch 32]

Rows are made by a generator as tab-separated files in eight languages, with repeated rows, garbled ones and near copies of
held-out questions among them. Each stage runs in a process of its own, so that its peak is its own; `before` is what the process
had when its imports were done.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ALPHABETS = {
    "ar": "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
    "bn": "কখগঘচছজঝটঠডঢতথদধনপফবভমযরলশসহ",
    "fi": "aehijklmnoprstuvyäö",
    "ja": "あいうえおかきくけこさしすせそたちつてと日本語東京",
    "ko": "가나다라마바사아자차카타파하고노도로모보소오조초코토포호",
    "ru": "абвгдежзиклмнопрстуфхцчшя",
    "sw": "abcdefghijklmnoprstuvwyz",
    "te": "కఖగఘచఛజఝటఠడఢతథదధనపఫబభమయరలవశసహ",
}


def write_rows(folder: Path, count: int) -> list[str]:
    """Write the rows of each language, and return questions that are held out."""
    held_out = [
        f"who was the first {word} that crossed the wide river number {n}" for n, word in enumerate(["a", "b"] * 500)
    ]
    drawn = random.Random(1)
    for code, letters in ALPHABETS.items():
        with (folder / f"{code}.tsv").open("w", encoding="utf-8") as stream:
            last = ""
            for number in range(count // len(ALPHABETS)):
                words = ["".join(drawn.choices(letters, k=drawn.randint(2, 8))) for _ in range(drawn.randint(4, 14))]
                english = ["".join(drawn.choices("abcdefghijklmnoprstuvw", k=drawn.randint(2, 8))) for _ in words]
                line = f"{' '.join(words)} {number}\t{' '.join(english)} {number}\n"
                if number % 100 == 7:
                    line = last
                elif number % 1000 == 3:
                    line = f"{' '.join(words)}\tplease say {held_out[number % 1000]}\n"
                elif number % 1000 == 5:
                    line = f"{words[0]}\ufffd {number}\t{' '.join(english)}\n"
                stream.write(line)
                last = line
    return held_out


def peak_megabytes() -> float:
    """Return the largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def prepare(folder: Path, count: int, processes: int) -> dict[str, Any]:
    """Prepare the rows; tell how long reading, checking and the rest took."""
    from drdecr.data.files import write_json
    from drdecr.data.prepare import preparation, row_cleaner
    from drdecr.data.prepare.cleaning import CleaningSettings
    from drdecr.data.prepare.leakage import HeldOutTexts
    from drdecr.data.prepare.prepared_shards import PROVENANCE

    before, spent = peak_megabytes(), dict.fromkeys(("read", "check", "write"), 0.0)

    def timed(name: str, function: Any) -> Any:
        def called(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            found = function(*args, **kwargs)
            spent[name] += time.process_time() - start
            return found

        return called

    held_out = json.loads((folder / "held_out.json").read_text())
    cleaner = row_cleaner.Cleaner(CleaningSettings(), HeldOutTexts(held_out), 1)
    work = preparation.Preparation(folder / "set", folder / "journal", cleaner, num_processes=processes)
    preparation._Peeked.__next__ = timed("read", preparation._Peeked.__next__)  # type: ignore[method-assign]
    row_cleaner.Cleaner.__call__ = timed("check", row_cleaner.Cleaner.__call__)  # type: ignore[method-assign]
    preparation.write_shard = timed("write", preparation.write_shard)
    entry = {"format": "tsv", "path": str(folder / "{language}.tsv"), "languages": list(ALPHABETS)}
    start = (time.time(), time.process_time())
    reports = work.run([row_cleaner.PreparedSource("made", entry)])
    seconds, cpu = time.time() - start[0], time.process_time() - start[1]
    write_json(folder / "set" / PROVENANCE, {"sources": reports})
    spent["tables, repetitions"] = cpu - sum(spent.values())
    facts = {"rows": count, "seconds": seconds, "cpu": cpu, "before": before, "peak": peak_megabytes(), "stages": spent}
    return {**facts, "dropped": reports[0]["dropped"], "kept": sum(reports[0]["kept"].values())}


def sample(folder: Path, count: int, batch: int) -> dict[str, Any]:
    """Draw rows as a training does, and collate them; without a batch size, only draw."""
    from drdecr.data.collators import DistillationCollator
    from drdecr.data.mixture import MixedSet
    from drdecr.data.offline.backbone import prepare_offline_backbone
    from drdecr.data.readers.hub import read_prepared
    from drdecr.data.schema import column_of
    from drdecr.modeling_drdecr import DrDecrProcessor

    collate = None
    if batch:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(prepare_offline_backbone())
        collate = DistillationCollator(DrDecrProcessor(tokenizer), anchor=True)
    rows = read_prepared(str(folder / "set"), cleaned=True).remove_columns("source")
    before = peak_megabytes()
    start = (time.time(), time.process_time())
    size = batch or 32
    languages = {"made": list(column_of(rows, "language"))}
    mixture = MixedSet({"made": rows}, size, -(-count // size), languages=languages, language_temperature=3)
    for place in range(0, count - size + 1, size):
        drawn = mixture.__getitems__(range(place, place + size))
        if collate is not None:
            collate(drawn)
    return {
        "rows": count,
        "seconds": time.time() - start[0],
        "cpu": time.process_time() - start[1],
        "before": before,
        "peak": peak_megabytes(),
    }


def main() -> None:
    """Run each stage in a process of its own, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--sampled", type=int, default=20_000, help="rows that are drawn and collated")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage == "prepare":
        print(json.dumps(prepare(arguments.folder, arguments.rows, arguments.processes)))
        return
    if arguments.stage:
        batch = arguments.batch if arguments.stage == "collate" else 0
        print(json.dumps(sample(arguments.folder, arguments.rows, batch)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "held_out.json").write_text(json.dumps(write_rows(folder, arguments.rows)))
        for stage, rows in (("prepare", arguments.rows), ("sample", arguments.rows), ("collate", arguments.sampled)):
            command = [sys.executable, __file__, "--stage", stage, "--folder", name, "--rows", str(rows)]
            command += ["--processes", str(arguments.processes), "--batch", str(arguments.batch)]
            found = json.loads(
                subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            )
            print(
                f"{stage}: {rows:,} rows, {rows / found['seconds']:,.0f} a second of wall time, {rows / found['cpu']:,.0f} a "
                f"second of this process's CPU time; {found['before']:.0f} MB before, {found['peak']:.0f} MB at the peak",
                flush=True,
            )
            for part, seconds in found.get("stages", {}).items():
                print(f"  {part}: {seconds / found['cpu']:.0%}")
            if "dropped" in found:
                print(f"  kept {found['kept']:,}, dropped {found['dropped']}", flush=True)


if __name__ == "__main__":
    main()
