"""Where something came from: versions, commit, command and model revision, without local paths."""

import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakSet

import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError
from transformers.utils import cached_file
from transformers.utils.hub import extract_commit_hash

from drdecr.modeling_drdecr.hub_drdecr import without_tokens

_ABSOLUTE = re.compile(r"""(?:(?<=^-[A-Za-z])|(?<![\w/.~$}*-]))/(?!/)[^\s"'`,;:=\[\]{}()]+""")
"""An absolute path within a word of a command, such as behind `--key=` or in a list."""


_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+(?=@)")
_SECRET_PARAMETER = re.compile(r"(?i)([?&;][\w-]*(?:token|key|secret|signature|password|auth)=)[^&;\s#'\"`]+")
_SECRET_OPTION = re.compile(r"(?i)--?[\w.-]*(?:token|password|secret|api[-_]key)")


def redact_secrets(text: str) -> str:
    """Replace tokens, and the names and passwords within addresses: what is published may hold none.

    Example:
        >>> redact_secrets("https://me:word@host/x?token=abc&page=2")
        'https://***@host/x?token=***&page=2'
    """
    return _SECRET_PARAMETER.sub(r"\1***", _CREDENTIALS.sub("***", without_tokens(text)))


def redact_paths(value: Any) -> Any:
    """Return a value without secrets and this machine's folders: an absolute path as `$DRDECR_DATA/...`, or its last part."""
    if isinstance(value, Mapping):
        return {key: redact_paths(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [redact_paths(part) for part in value]
    if not isinstance(value, str):
        return value
    value = redact_secrets(value)
    if not Path(value).is_absolute():
        return value
    root = os.environ.get("DRDECR_DATA")
    if root and Path(value).is_relative_to(root):
        return f"$DRDECR_DATA/{Path(value).relative_to(root).as_posix()}"
    return Path(value).name or value


def redact_command(words: Sequence[str]) -> str:
    """Return a command line in one line, its paths and secrets as `redact_paths` gives them.

    Example:
        >>> redact_command(["/home/me/bin/drdecr", "data", "mine", "/home/me/mine.yaml", "--reader=/runs/a b", "runs/out"])
        "drdecr data mine mine.yaml '--reader=a b' runs/out"
    """
    shown_words = [
        "***" if _SECRET_OPTION.fullmatch(option) else _redact_word(word)
        for option, word in zip(["", *words], words, strict=False)
    ]
    return shlex.join(shown_words)


def _redact_word(word: str) -> str:
    word = redact_secrets(word).replace("file:///", "/")
    option, equals, path = word.partition("=")
    if equals and _SECRET_OPTION.fullmatch(option):
        return f"{option}=***"
    if equals and option.startswith("-") and Path(path).is_absolute():
        return f"{option}={redact_paths(path)}"
    return (
        redact_paths(word)
        if Path(word).is_absolute()
        else _ABSOLUTE.sub(lambda found: redact_paths(found.group()), word)
    )


KINDS_OF_FILES = (".json", ".safetensors", ".bin", ".model")
"""Configuration, tokenizer and weights, by the ending."""


def hub_commit(source: str, revision: str | None = None) -> str | None:
    """Return the commit that a Hub name stands for now, so that all its files are of one state; None for a folder."""
    if os.path.isdir(source):
        return None
    missing: dict[str, Any] = {"revision": revision, "_raise_exceptions_for_missing_entries": False}
    found = cached_file(source, "config.json", **missing) or cached_file(source, "adapter_config.json", **missing)
    return extract_commit_hash(found, None)


def model_fingerprint(source: str, revision: str | None = None) -> str:
    """Return a text that is another one when a model is another one, without reading its weights.

    Args:
        source: folder or Hub name.
        revision: of the Hub name.

    Returns:
        What the run that made the model wrote of itself; of another folder its files' sizes and times of change; of a Hub
        name its commit.
    """
    folder = Path(source)
    if not folder.is_dir():
        return f"{source} {hub_commit(source, revision)}"
    run = folder.parent / "run.json"
    if folder.name in ("model", "adapter") and run.exists():
        return run.read_text(encoding="utf-8")
    files = sorted(path for path in folder.iterdir() if path.suffix in KINDS_OF_FILES)
    return "\n".join(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files)


STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
SLACK = 2**24
"""Bytes by which Linux's counts of one moment may differ: threads hold some back."""

WORDS = {
    "peak_memory_mb": "peak memory",
    "peak_process_memory_mb": "peak memory of the process so far",
    "peak_gpu_memory_mb": "peak memory on the GPU",
}
"""What there is to tell, and how it is said."""


class PeakMemory:
    """The peaks of this process's memory from now on.

    Another may be made in between, as that of a stage within a pipeline: what it makes the system forget, this one keeps.
    """

    _counting: ClassVar["WeakSet[PeakMemory]"] = WeakSet()

    def __init__(self) -> None:
        for other in list(self._counting):
            other._kept = other.peaks
        self._kept: dict[str, float] = {}
        self._is_own = forget_resident_peak()
        forget_gpu_peak()
        self._counting.add(self)

    @property
    def peaks(self) -> dict[str, float]:
        """Megabytes (of 10^6 bytes) by the names in `WORDS`; what the system does not tell is left out.

        `peak_memory_mb` is resident memory, with what the process held before; `peak_process_memory_mb` stands in its place
        where the system does not forget earlier peaks (anywhere but on Linux). `peak_gpu_memory_mb` is of torch's tensors on
        the current CUDA device.
        """
        resident = "peak_memory_mb" if self._is_own else "peak_process_memory_mb"
        found = {resident: resident_peak(), "peak_gpu_memory_mb": gpu_peak()}
        return larger(self._kept, {name: round(value / 1e6, 1) for name, value in found.items() if value})


def larger(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """Return the larger of two peaks by each name, in the order of `WORDS`.

    >>> larger({"peak_memory_mb": 3.0}, {"peak_memory_mb": 2.0, "peak_gpu_memory_mb": 1.0, "seconds": 9.0})
    {'peak_memory_mb': 3.0, 'peak_gpu_memory_mb': 1.0}
    """
    return {
        name: max(peaks[name] for peaks in (one, other) if name in peaks)
        for name in WORDS
        if name in one or name in other
    }


def in_words(peaks: Mapping[str, float]) -> str:
    """Return peaks for a summary line, empty where there are none; other facts may stand among them.

    >>> in_words({"seconds": 3.0, "peak_memory_mb": 1234.5, "peak_gpu_memory_mb": 200.0})
    'peak memory 1,234 MB, peak memory on the GPU 200 MB'
    """
    return ", ".join(f"{words} {peaks[name]:,.0f} MB" for name, words in WORDS.items() if name in peaks)


def resident_peak() -> int | None:
    """Return the most bytes that this process had resident since they were last forgotten; None where nobody says."""
    if peak := _status().get("VmHWM"):
        return peak
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def forget_resident_peak() -> bool:
    """Begin to count anew from what is resident now, and return whether that worked."""
    try:
        CLEAR.write_text("5", encoding="ascii")
    except OSError:
        return False
    now = _status()  # looked at, since a system may take the 5 and do nothing
    return 0 < now.get("VmHWM", 0) <= now.get("VmRSS", 0) + SLACK


def _status() -> dict[str, int]:
    """Return the bytes in Linux's status of this process, by name; nothing elsewhere."""
    try:
        lines = [line.split() for line in STATUS.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError):
        return {}
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[2:] == ["kB"] and words[1].isdigit()}


def gpu_peak() -> int | None:
    """Return the most bytes that tensors had on the current CUDA device since they were last forgotten."""
    if not torch.cuda.is_initialized():  # asking would set CUDA up
        return None
    try:
        return torch.cuda.max_memory_allocated()
    except RuntimeError:  # a device that failed says so in the run itself
        return None


def forget_gpu_peak() -> None:
    """Begin to count anew from what is allocated now."""
    if torch.cuda.is_initialized():
        try:
            torch.cuda.reset_peak_memory_stats()
        except RuntimeError:
            return


PACKAGES = (
    "drdecr",
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "peft",
    "huggingface_hub",
    "tokenizers",
    "numpy",
)


def environment() -> dict[str, Any]:
    """Return versions, git commit, command (without this machine's folders, for it is published) and hardware."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "git_commit": _git_commit(),
        "command": redact_command(sys.argv),
        "hardware": device,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Return the commit of the package's own checkout, if it is run from one."""
    folder = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def hub_revision(entry: dict[str, Any]) -> str | None:
    """Return the commit that an entry of the Hub stands for now; None for a folder."""
    if "$" in entry["name"] or Path(entry["name"]).exists():
        return None
    try:
        return HfApi().dataset_info(entry["name"], revision=entry.get("revision")).sha
    except (OSError, HTTPError):  # read from the cache, without the network: what the recipe says is all that is known
        return entry.get("revision")
