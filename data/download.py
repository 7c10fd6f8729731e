"""Get a file from a URL or the Hub: whole or not at all, checked, and gone on with after an interruption."""

import gzip
import os
import shutil
import tarfile
import zlib
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HTTPError
from huggingface_hub.file_download import http_get

from drdecr.modeling_drdecr.hub_errors_drdecr import HubError, explained

from .whole_files import digest_of, whole_file

RANGE_BEYOND_THE_END = 416
"""What a server says when it is asked for what comes after the last byte."""


def download(url: str, file: Path, sha256: str | None = None) -> Path:
    """Get a file; one that is there is left alone.

    What an interrupted call has received stays beside it, as `.NAME.part`, and the next call asks for the rest.

    Args:
        url: of `http` or `https`; or `hf://datasets/USER/NAME[@REVISION]/PATH` of a dataset on the Hub.
        file: where it goes.
        sha256: its digest; default: what comes is believed.

    Raises:
        ValueError: if the file has another digest. What came is deleted.
        HubError: if it cannot be got.
    """
    if file.exists():
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.part")
    if url.startswith("hf://datasets/"):
        _from_hub(url, part)
    else:
        _from_url(url, part)
    if sha256 is not None and (found := digest_of(part)) != sha256:
        part.unlink()
        raise ValueError(
            f"{url}: expected the SHA-256 {sha256}, got {found}. It changed, or was cut off: get it again."
        )
    os.replace(part, file)
    return file


def download_member(url: str, member: str, file: Path, sha256: str | None = None) -> Path:
    """Get one file out of a tar archive, packed or not; one that is there is left alone.

    The archive stays beside it, as `.NAME.archive`, until the file is whole.

    Args:
        url: of the archive, as of `download`.
        member: name of the file in it; folders before it do not count.
        file: where it goes.
        sha256: the archive's digest.

    Raises:
        ValueError: if the archive is none, was cut off, or has no such file. It is deleted then.
        HubError: if it cannot be got.
    """
    if file.exists():
        return file
    archive = download(url, file.with_name(f".{file.name}.archive"), sha256)
    try:
        with tarfile.open(archive, "r:*") as opened:
            found = next((part for part in opened if part.isfile() and Path(part.name).name == member), None)
            content = opened.extractfile(found) if found is not None else None
            if content is None:
                raise ValueError(f"{url}: expected a file {member!r} in the archive, got none. Unpack it yourself.")
            with whole_file(file) as unfinished, unfinished.open("wb") as stream:
                shutil.copyfileobj(content, stream)
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        archive.unlink()
        raise ValueError(f"{url}: expected a whole tar archive ({error}). Get it again.") from error
    archive.unlink()
    return file


def _from_url(url: str, part: Path) -> None:
    try:
        with part.open("ab") as stream:
            http_get(url, stream, resume_size=stream.tell())
    except (HTTPError, OSError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status == RANGE_BEYOND_THE_END:
            part.unlink()  # it is whole, or of another file: without a digest nobody can tell
            return _from_url(url, part)
        reason = f"status {status}" if status else str(error).split("\n")[0]
        raise HubError(
            f"{url}: could not be got ({reason}). Run it again, what has arrived is kept; or put the file where it belongs "
            "yourself."
        ) from error


def _from_hub(url: str, part: Path) -> None:
    user, name, path = url.removeprefix("hf://datasets/").split("/", 2)
    name, _, revision = name.partition("@")
    try:
        with explained(f"{user}/{name}"):
            found = hf_hub_download(f"{user}/{name}", path, repo_type="dataset", revision=revision or None)
    except HubError as error:
        raise HubError(f"{url}: {error}") from error
    part.unlink(missing_ok=True)
    try:
        os.link(os.path.realpath(found), part)  # the Hub's cache keeps its own name for it
    except OSError:  # another file system
        shutil.copyfile(found, part)
