"""Downloads: gone on with where they stopped, checked, and never half there. The server is this test's own."""

import hashlib
import io
import os
import shutil
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import Mock

import pytest

from drdecr.data import download as downloads
from drdecr.data.download import download, download_member
from drdecr.modeling_drdecr.hub_errors_drdecr import HubError

CONTENT = bytes(range(256)) * 400
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT, from a byte on if asked; `/gone` is not there."""

    asked: list[str | None] = []  # noqa: RUF012

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        status = 404 if self.path == "/gone" else 416 if start >= len(CONTENT) else 206 if wanted else 200
        body = CONTENT[start:] if status in (200, 206) else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(
        "huggingface_hub.constants.HF_HUB_OFFLINE", False
    )  # of the Hub; the client asks for other hosts too
    Handler.asked = []
    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{found.server_port}"
    found.shutdown()


def test_a_file_is_got_once(server, tmp_path):
    for _ in range(2):
        assert download(f"{server}/a", tmp_path / "deep" / "a", DIGEST).read_bytes() == CONTENT
    assert Handler.asked == [None]


def test_an_interrupted_one_asks_for_the_rest(server, tmp_path):
    (tmp_path / ".a.part").write_bytes(CONTENT[:1000])
    assert download(f"{server}/a", tmp_path / "a", DIGEST).read_bytes() == CONTENT
    assert Handler.asked == ["bytes=1000-"]
    (tmp_path / ".b.part").write_bytes(CONTENT)  # stopped before it got its name
    assert download(f"{server}/b", tmp_path / "b", DIGEST).read_bytes() == CONTENT


def test_a_file_is_taken_out_of_an_archive(monkeypatch, tmp_path):
    """Packed or not; and a cut archive, or one without the file, leaves nothing."""

    def archive(mode: str, name: str, content: bytes = CONTENT) -> Path:
        path = tmp_path / f"source-{name}.tar"
        with tarfile.open(path, mode) as packed:
            facts = tarfile.TarInfo(f"folder/{name}")
            facts.size = len(content)
            packed.addfile(facts, io.BytesIO(content))
        return path

    monkeypatch.setattr(downloads, "_from_url", lambda url, part: shutil.copyfile(url, part))
    for mode, name in (("w", "a.tsv"), ("w:gz", "b.tsv")):
        assert download_member(str(archive(mode, name)), name, tmp_path / "out" / name).read_bytes() == CONTENT
    with pytest.raises(ValueError, match=r"expected a file 'other.tsv' in the archive, got none"):
        download_member(str(archive("w", "c.tsv")), "other.tsv", tmp_path / "out" / "c.tsv")
    (tmp_path / "out" / ".c.tsv.archive").unlink()
    cut = archive("w:gz", "d.tsv", os.urandom(5000))
    cut.write_bytes(cut.read_bytes()[:3000])
    with pytest.raises(ValueError, match="expected a whole tar archive"):
        download_member(str(cut), "d.tsv", tmp_path / "out" / "d.tsv")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.tsv", "b.tsv"]


def test_another_file_than_the_expected_one_is_not_kept(server, tmp_path):
    with pytest.raises(ValueError, match="expected the SHA-256 0000, got"):
        download(f"{server}/a", tmp_path / "a", "0000")
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_the_hub_is_copied_in_blocks_to_another_disk(monkeypatch, tmp_path):
    (tmp_path / "cached").write_bytes(CONTENT)
    monkeypatch.setattr(downloads, "hf_hub_download", lambda *_, **__: str(tmp_path / "cached"))
    monkeypatch.setattr(os, "link", Mock(side_effect=OSError("another disk")))
    monkeypatch.setattr(Path, "read_bytes", Mock(side_effect=MemoryError("the whole file at once")))
    download("hf://datasets/me/set/a", tmp_path / "a", DIGEST)
    assert (tmp_path / "a").stat().st_size == len(CONTENT)


def test_what_is_not_there_is_told_with_its_address(server, tmp_path):
    with pytest.raises(HubError, match=r"/gone: could not be got \(status 404\)"):
        download(f"{server}/gone", tmp_path / "a")
    assert not (tmp_path / "a").exists()
