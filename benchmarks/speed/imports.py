"""How long a process waits for `import`, beyond what torch itself takes."""

import subprocess
import sys
from collections.abc import Iterator

from timing import interleaved, timing_table

STATEMENTS = {
    "import torch": "import torch",
    "import torch, drdecr": "import torch, drdecr",
    "import torch; from transformers import AutoModel": "import torch; from transformers import AutoModel",
    "import torch; from transformers import PreTrainedModel, ProcessorMixin": (
        "import torch; from transformers import PreTrainedModel, ProcessorMixin"
    ),
    "import torch; from drdecr import DrDecrModel": "import torch; from drdecr import DrDecrModel",
    "import torch; from sentence_transformers import MultiVectorEncoder": (
        "import torch; from sentence_transformers import MultiVectorEncoder"
    ),
}


def report(repeats: int) -> Iterator[str]:
    """Yield the table."""
    ways = {
        name: lambda code=code: subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        for name, code in STATEMENTS.items()
    }
    yield "### A fresh process\n"
    yield timing_table(interleaved(ways, max(3, repeats // 3)), "import torch")
