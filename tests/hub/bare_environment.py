"""The fixture `run_bare`: a Python that has torch and transformers, with what they require, and nothing else."""

import subprocess
from collections.abc import Callable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

INSTALLED = ("torch", "transformers")


def with_requirements(names: tuple[str, ...]) -> Iterator[Distribution]:
    """Yield distributions and, over any number of steps, all that they require without extras."""
    seen: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name.lower().replace("_", "-") in seen:
            continue
        seen.add(name.lower().replace("_", "-"))
        try:
            found = distribution(name)
        except PackageNotFoundError:  # of another platform, or part of a build that is not this one
            continue
        yield found
        required = [Requirement(line) for line in found.requires or []]
        waiting += [it.name for it in required if it.marker is None or it.marker.evaluate({"extra": ""})]


@pytest.fixture(scope="session")
def bare_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of links to these packages: what `pip install torch transformers` would bring."""
    folder = tmp_path_factory.mktemp("packages")
    for found in with_requirements(INSTALLED):
        for name in {file.parts[0] for file in found.files or []} - {"..", "__pycache__"}:
            if not (folder / name).exists():
                (folder / name).symlink_to(Path(str(found.locate_file(name))))
    return folder


@pytest.fixture
def run_bare(
    bare_packages: Path, run_python: Callable[..., subprocess.CompletedProcess[str]]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run_bare(code, *arguments, env=..., cwd=...)` runs code there; see `run_python`."""

    def run(code: str, *arguments: Any, env: dict[str, str] | None = None, **how: Any) -> Any:
        where = {"PYTHONPATH": str(bare_packages), "PYTHONNOUSERSITE": "1"}
        return run_python("-S", "-c", code, *arguments, env={**(env or {}), **where}, **how)  # -S: no site-packages

    return run
