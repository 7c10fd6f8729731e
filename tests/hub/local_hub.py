"""The fixture `hub`: a Hub of the test's own, in a process of its own, that this process and its children talk to.

`hub.environment` is for processes that a test starts. `hub.api()` looks into the Hub as any user does.
"""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import huggingface_hub
import pytest
import transformers.dynamic_module_utils
import transformers.utils.hub
from huggingface_hub import HfApi, constants

SERVER = Path(__file__).with_name("server.py")
ALICE, READER, BOB = "hf_alice_write", "hf_alice_read", "hf_bob_write"
"""Tokens: alice's, alice's that may only read, and another user's."""


class LocalHub:
    """A Hub at `address`; `home` is where its clients keep their caches."""

    def __init__(self, address: str, home: Path) -> None:
        self.address, self.home = address, home

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a process that uses this Hub as alice."""
        ours = {
            "HF_ENDPOINT": self.address,
            "HF_TOKEN": ALICE,
            "HF_HOME": str(self.home),
            "HF_MODULES_CACHE": str(self.home / "modules"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_OFFLINE": "0",
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }
        return {**os.environ, **ours}

    def api(self, token: str = ALICE) -> HfApi:
        return HfApi(self.address, token=token)

    def files(self, repository: str, revision: str | None = None, kind: str = "model") -> set[str]:
        return set(self.api().list_repo_files(repository, revision=revision, repo_type=kind))

    def fail(self, method: str, path: str, **how: Any) -> None:
        """Let the next requests fail; see `Failure` in server.py."""
        self._ask("fail", {"method": method, "path": path, **how})

    def heal(self) -> None:
        """Let nothing fail any more, and forget the requests until now."""
        self._ask("heal", {})

    def forget(self) -> None:
        """Forget everything."""
        self._ask("forget", {})

    def requests(self, method: str = "", path: str = "") -> list[list[str]]:
        """Return `[method, path, range]` of the requests until now, or of those that hold these texts."""
        return [found for found in self._ask("requests") if method in found[0] and path in found[1]]

    def _ask(self, what: str, content: Any = None) -> Any:
        data = None if content is None else json.dumps(content).encode()
        with urllib.request.urlopen(f"{self.address}/test/{what}", data, timeout=10) as answer:
            return json.load(answer)


@pytest.fixture(scope="session")
def hub_address() -> Iterator[str]:
    """Start the server, once a session."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, str(SERVER)], **pipes) as process:  # closes its input, which ends it
        assert process.stdout is not None
        yield process.stdout.readline().strip()


@pytest.fixture
def hub(hub_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """An empty Hub, which this process uses as alice, with an empty cache."""
    hub = LocalHub(hub_address, tmp_path / "hf_home")
    hub.forget()
    # Read from the environment when the libraries were imported, so the environment alone comes too late here.
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub.home / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", hub.address)
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)
    # The folder of modules is added to the path; one that a test before has added would be looked into first.
    others = [folder for folder in sys.path if folder != transformers.dynamic_module_utils.HF_MODULES_CACHE]
    monkeypatch.setattr(sys, "path", others)
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(hub.home / "modules"))
    imported = _take_imported_code()
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.address)
    monkeypatch.setattr(
        datasets.config, "HUB_DATASETS_URL", hub.address + "/datasets/{repo_id}/resolve/{revision}/{path}"
    )
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", hub.home / "datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", ALICE)
    yield hub
    _take_imported_code()
    sys.modules.update(imported)
    hub.heal()


def _take_imported_code() -> dict[str, ModuleType]:
    """Take code of checkpoints out of what is imported: its package knows one folder, which must not outlive a test."""
    names = [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]
    return {name: sys.modules.pop(name) for name in names}
