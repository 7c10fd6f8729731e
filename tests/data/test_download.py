"""Downloads: gone on with where they stopped, checked, and never half there. The server is this test's own."""

import hashlib
import io
import os
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import Mock

import pytest

from drdecr.data.prepare import download as downloads
from drdecr.data.prepare.catalog import Source
from drdecr.data.prepare.download import download, download_members, download_pairs
from drdecr.modeling_drdecr.hub_drdecr import HubError

CONTENT = bytes(range(256)) * 400
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves `files`, or CONTENT, from a byte on if asked; `/gone` is not there."""

    asked: list[str | None] = []  # noqa: RUF012
    files: dict[str, bytes] = {}  # noqa: RUF012

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        content = self.files.get(self.path, CONTENT)
        status = 404 if self.path == "/gone" else 416 if start >= len(content) else 206 if wanted else 200
        body = content[start:] if status in (200, 206) else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(
        "huggingface_hub.constants.HF_HUB_OFFLINE", False
    )  # of the Hub; the client asks for other hosts too
    Handler.asked, Handler.files = [], {}
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


def archive(mode: str, **files: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as packed:
        for name, content in files.items():
            facts = tarfile.TarInfo(f"folder/{name}")
            facts.size = len(content)
            packed.addfile(facts, io.BytesIO(content))
    return stream.getvalue()


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_all_files_of_one_archive_cost_one_download(mode, server, monkeypatch, tmp_path):
    """The catalogue names them by language; what is here already costs nothing."""
    monkeypatch.setenv("DRDECR_DATA", str(tmp_path))
    Handler.files["/set.tar.gz"] = archive(mode, fin=b"talo\n", est=b"maja\n", other=b"-", eng=b"house\n")
    entry = {"format": "lines", "path": "$DRDECR_DATA/s/{language}.txt", "english": "$DRDECR_DATA/s/eng.txt"}
    digests = {"fin": hashlib.sha256(b"talo\n").hexdigest()}
    url = f"{server}/set.tar.gz"
    files = (
        {"path": "s/eng.txt", "url": url, "member": "eng"},
        {"path": "s/{language}.txt", "url": url, "member": "{language}", "sha256": digests},
    )
    source = Source("x", "X", "train", "https://x", {**entry, "languages": {"fi": "fin", "et": "est"}}, files=files)
    for _ in range(2):
        source.download()
    assert Handler.asked == [None]
    assert {file.name: file.read_bytes() for file in (tmp_path / "s").iterdir()} == {
        "eng.txt": b"house\n",
        "fin.txt": b"talo\n",
        "est.txt": b"maja\n",
    }


def test_what_an_archive_lacks_or_holds_otherwise_is_told(server, tmp_path):
    Handler.files["/a.tar"] = archive("w", a=CONTENT, b=b"two")
    with pytest.raises(ValueError, match=r"a\.tar: expected a file 'other' in the archive, got none"):
        download_members(f"{server}/a.tar", {"a": tmp_path / "a", "other": tmp_path / "o"})
    with pytest.raises(ValueError, match=r"a\.tar, b: expected the SHA-256 0000, got"):
        download_members(f"{server}/a.tar", {"b": tmp_path / "b"}, {"b": "0000"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]
    assert Handler.asked == [None]  # the first call left the archive for the second
    Handler.files["/cut.tar.gz"] = archive("w:gz", d=os.urandom(5000))[:3000]
    with pytest.raises(ValueError, match="expected a whole tar archive"):
        download_members(f"{server}/cut.tar.gz", {"d": tmp_path / "cut" / "d"})
    with pytest.raises(ValueError, match="expected the MD5 0000, got"):
        download_members(f"{server}/b.tar", {"d": tmp_path / "cut" / "d"}, md5="0000")
    assert list((tmp_path / "cut").iterdir()) == []


def test_two_aligned_texts_become_pairs(server, tmp_path):
    Handler.files = {
        "/fi": "# text = talo\n1\ttalo\n# text = y\u0085ö\n".encode(),
        "/en": b"# text = house\n# text = night",
    }
    whole = "talo\thouse\ny\u0085ö\tnight\n".encode()
    addresses = (f"{server}/fi", f"{server}/en")
    digest = hashlib.sha256(whole).hexdigest()
    assert download_pairs(*addresses, tmp_path / "fi.tsv", digest, "# text = ").read_bytes() == whole
    with pytest.raises(ValueError, match=r"/fi: expected as many texts as in .*/en, 2, got 3"):
        download_pairs(*addresses, tmp_path / "other.tsv")
    with pytest.raises(ValueError, match=r"/fi beside .*/en: expected the SHA-256 0000"):
        download_pairs(*addresses, tmp_path / "other.tsv", "0000", "# text = ")
    assert [path.name for path in tmp_path.iterdir()] == ["fi.tsv"]


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
