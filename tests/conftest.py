"""Tiny, seeded, offline stand-ins that tests of every package share: a tokenizer of words, a processor, a student."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# Before transformers is imported: code of checkpoints is loaded from here, and two test processes must not share it.
os.environ["HF_MODULES_CACHE"] = tempfile.mkdtemp(prefix="drdecr-modules-")

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, PreTrainedTokenizerFast

from drdecr.modeling_drdecr import DrDecrConfig, DrDecrModel, DrDecrProcessor

pytest_plugins = ["local_hub", "bare_environment"]  # the fixtures `hub` and `run_bare`

SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "[Q]", "[D]"]
WORDS = ["the", "of", "is", "in", "a", "what", "where", "capital", "city", "river", "sea", "king", "paris", "france"]


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs leave an empty `curves.png`: to draw costs more than the tiny runs do. tests/drdecr/test_curves.py draws."""
    monkeypatch.setattr("drdecr.evaluation.plots.draw_curves", lambda _log, path, title: path.touch())


@pytest.fixture
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A WordLevel tokenizer: `<s> words </s>`, ids 0 and 2, `<pad>` 1; letters and signs are words of their own."""
    words = [*SPECIALS, *"bcdefghijklmnopqrstuvwxyz?!.,", *WORDS]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
    )


@pytest.fixture
def tiny_processor(tiny_tokenizer: PreTrainedTokenizerFast) -> DrDecrProcessor:
    """Markers `[Q]` and `[D]`, queries of 12 tokens at most, documents of 24."""
    return DrDecrProcessor(
        tiny_tokenizer, query_marker="[Q]", document_marker="[D]", query_length=12, document_length=24
    )


@pytest.fixture
def tiny_model(tiny_processor: DrDecrProcessor) -> DrDecrModel:
    """A BERT of two layers, hidden size 32, embedding dimension 16, seeded, in eval mode, with its processor."""
    torch.manual_seed(0)
    encoder = BertConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        pad_token_id=1,
    )
    model = DrDecrModel(DrDecrConfig(encoder_config=encoder, embedding_dim=16)).eval()
    model.processor = tiny_processor
    return model


@pytest.fixture
def use_threads() -> Iterator[Callable[[int], None]]:
    """Return a function that gives torch so many threads; they are put back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def under_fsdp(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Let trainers find themselves under FSDP, before anything is shared out; its settings are returned."""
    from accelerate.state import AcceleratorState

    plugin = SimpleNamespace(transformer_cls_names_to_wrap=None, activation_checkpointing=False)
    monkeypatch.setattr(AcceleratorState, "fsdp_plugin", plugin, raising=False)
    return plugin


@pytest.fixture
def breaking_off(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, str, int], AbstractContextManager[None]]:
    """`with breaking_off(owner, name, calls):` after so many calls the next one interrupts the block, as it must."""

    @contextmanager
    def block(owner: Any, name: str, calls: int) -> Iterator[None]:
        real, left = getattr(owner, name), [calls]

        def dying(*arguments: Any, **options: Any) -> Any:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return real(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, dying)
            with pytest.raises(KeyboardInterrupt):
                yield

    return block


@pytest.fixture
def run_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run_python("-c", code)` runs this Python in a process of its own: offline, without a terminal, without a GPU.

    `env` is put over the environment, `cwd` is where it runs, `processes` starts so many with torchrun. Where it fails,
    the test does, with the end of what was printed, but for `check=False`.
    """

    def run(
        *words: Any,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        processes: int = 1,
        timeout: int = 280,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        offline = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        done = subprocess.run(
            [sys.executable, *(torchrun if processes > 1 else []), *map(str, words)],
            cwd=cwd,
            env={**os.environ, **offline, **(env or {})},
            stdin=subprocess.DEVNULL,  # a question to the user fails instead of waiting
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode != 0:
            pytest.fail(f"exit code {done.returncode}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
        return done

    return run


@pytest.fixture
def chromium() -> str:
    """The system's own Chromium; without one the test is skipped."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    return found


@pytest.fixture
def browser(chromium: str) -> Iterator[Any]:
    """The same, headless, driven by playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()
