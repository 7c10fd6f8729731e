"""Get a file from a URL or the Hub: whole or not at all, checked, and gone on with after an interruption."""

import gzip
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HTTPError
from huggingface_hub.file_download import http_get

from drdecr.data.files import digest_of, whole_file
from drdecr.modeling_drdecr.hub_drdecr import HubError, hub_errors

RANGE_BEYOND_THE_END = 416
"""What a server says when it is asked for what comes after the last byte."""


def download(url: str, file: Path, sha256: str | None = None, md5: str | None = None) -> Path:
    """Get a file; one that is there is left alone.

    What an interrupted call has received stays beside it, as `.NAME.part`, and the next call asks for the rest.

    Args:
        url: of `http` or `https`; or `hf://datasets/USER/NAME[@REVISION]/PATH` of a dataset on the Hub.
        file: where it goes.
        sha256: its digest; default: what comes is believed.
        md5: its MD5, of files whose publishers give no other digest.

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
    try:
        _check(url, part, sha256, md5)
    except ValueError:
        part.unlink()
        raise
    os.replace(part, file)
    return file


def download_members(
    url: str, members: Mapping[str, Path], digests: Mapping[str, str] | None = None, md5: str | None = None
) -> list[Path]:
    """Get files out of a tar archive, packed or not; those that are there are left alone, and the rest cost one download.

    The archive stays beside the first file, as `.ARCHIVE'S NAME`, until all files are whole.

    Args:
        url: of the archive, as of `download`.
        members: where each file goes, by its name in the archive; folders before it do not count.
        digests: SHA-256 by the same names.
        md5: of the archive.

    Raises:
        ValueError: if the archive is none, was cut off, or lacks a file, or if one has another digest. But for
            one that lacks a file the archive is deleted; the files that were found in it before stay.
        HubError: if it cannot be got.
    """
    wanted = {member: file for member, file in members.items() if not file.exists()}
    if not wanted:
        return list(members.values())
    first = next(iter(members.values()))
    archive = download(url, first.with_name(f".{PurePosixPath(url).name}"), md5=md5)
    try:
        with tarfile.open(archive, "r:*") as opened:
            for part in opened:
                member = PurePosixPath(part.name).name
                if part.isfile() and member in wanted and (content := opened.extractfile(part)) is not None:
                    with _whole_and_checked(
                        f"{url}, {member}", wanted.pop(member), (digests or {}).get(member)
                    ) as stream:
                        shutil.copyfileobj(content, stream)
                if not wanted:
                    break
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        archive.unlink()
        raise ValueError(f"{url}: expected a whole tar archive ({error}). Get it again.") from error
    except ValueError:  # another digest
        archive.unlink()
        raise
    if wanted:
        raise ValueError(f"{url}: expected a file {next(iter(wanted))!r} in the archive, got none. Unpack it yourself.")
    archive.unlink()
    return list(members.values())


def download_pairs(url: str, english: str, file: Path, sha256: str | None = None, text_after: str = "") -> Path:
    """Get two texts that are aligned line by line, as one of tab-separated pairs; one that is there is left alone.

    Args:
        url: of the text in the other language, as of `download`.
        english: of the text in English.
        file: where the pairs go.
        sha256: the digest of the pairs.
        text_after: what stands before a text in its line, such as `# text = ` in CoNLL-U; other lines are left out.

    Raises:
        ValueError: if the texts have not the same number of lines, or the pairs have another digest.
        HubError: if one cannot be got.
    """
    if file.exists():
        return file
    parts = [download(one, file.with_name(f".{file.name}.{n}")) for n, one in enumerate((url, english), start=1)]
    try:
        texts, translations = (_texts(part, text_after.encode()) for part in parts)
        if len(texts) != len(translations):
            raise ValueError(
                f"{url}: expected as many texts as in {english}, {len(translations)}, got {len(texts)}. Get them again."
            )
        with _whole_and_checked(f"{url} beside {english}", file, sha256) as stream:
            stream.writelines(b"\t".join(pair) + b"\n" for pair in zip(texts, translations, strict=True))
    finally:
        for part in parts:
            part.unlink()
    return file


def _texts(file: Path, before: bytes) -> list[bytes]:
    lines = file.read_bytes().removesuffix(b"\n").split(b"\n")
    return [line.removeprefix(before) for line in lines if line.startswith(before)]


@contextmanager
def _whole_and_checked(what: str, file: Path, sha256: str | None) -> Iterator[BinaryIO]:
    """Give a stream to write to, whose content becomes the file if it has the digest."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as unfinished:
        with unfinished.open("wb") as stream:
            yield stream
        _check(what, unfinished, sha256)


def _check(what: str, file: Path, sha256: str | None, md5: str | None = None) -> None:
    for name, algorithm, expected in (("SHA-256", "sha256", sha256), ("MD5", "md5", md5)):
        if expected is not None and (found := digest_of(file, algorithm)) != expected:
            raise ValueError(
                f"{what}: expected the {name} {expected}, got {found}. It changed, or was cut off: get it again."
            )


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
        with hub_errors(f"{user}/{name}"):
            found = hf_hub_download(f"{user}/{name}", path, repo_type="dataset", revision=revision or None)
    except HubError as error:
        raise HubError(f"{url}: {error}") from error
    part.unlink(missing_ok=True)
    try:
        os.link(os.path.realpath(found), part)  # the Hub's cache keeps its own name for it
    except OSError:  # another file system
        shutil.copyfile(found, part)
