"""An index from elsewhere: what its manifest may say, what its links lead to, and what a writer deletes."""

import json

import pytest
import torch

from drdecr.retrieval import DamagedIndexError, StoredIndex
from drdecr.retrieval.stored.manifest import MANIFEST_NAME, _digest_of


def unit(count):
    return torch.nn.functional.normalize(torch.ones(count, 8), dim=-1)


@pytest.fixture
def folder(tmp_path):
    for name in ("index", "other"):
        with StoredIndex.create(tmp_path / name, dim=8, codec="residual4") as index:
            index.add(["a", "b"], [unit(2), unit(3)])
            index.commit()
            index.delete(["b"])
            index.commit()
    return tmp_path / "index"


def sign(folder, change):
    """Change a manifest as who means it does: its checksum is no secret."""
    content = json.loads((folder / MANIFEST_NAME).read_text())
    del content["sha256"]
    change(content, content["segments"][0])
    (folder / MANIFEST_NAME).write_text(json.dumps({**content, "sha256": _digest_of(content)}))


def set_file(segment, name):
    segment["files"][name] = segment["files"].pop("codes.npy")


LIES = {
    "a name that leads out": lambda index, segment: segment.update(name="../../other/segments/s000001"),
    "an absolute name": lambda index, segment: segment.update(name="/tmp"),
    "a file that leads out": lambda index, segment: set_file(segment, "../codes.npy"),
    "a file of a folder": lambda index, segment: set_file(segment, "a/codes.npy"),
    "the list of deleted rows elsewhere": lambda index, segment: segment.update(deleted="../x.npy"),
    "a segment that is a number": lambda index, segment: index.update(segments=[1]),
    "no list of segments": lambda index, segment: index.update(segments=None),
    "a segment twice": lambda index, segment: index["segments"].append(segment),
    "an unknown key": lambda index, segment: index.update(colour="red"),
    "an unknown key of a segment": lambda index, segment: segment.update(colour="red"),
    "no width": lambda index, segment: index.pop("dim"),
    "a width of a text": lambda index, segment: index.update(dim="8"),
    "another width": lambda index, segment: index.update(dim=16),
    "no metadata": lambda index, segment: index.update(metadata=None),
    "no files": lambda index, segment: segment.update(files={}),
    "files without sizes": lambda index, segment: segment["files"].update({"codes.npy": 3}),
    "more passages than rows": lambda index, segment: segment.update(passages=9),
    "more tokens than rows": lambda index, segment: segment.update(tokens=9),
    "an unknown codec": lambda index, segment: index.update(codec="zip"),
    "another codec": lambda index, segment: index.update(codec="int8"),
    "a factor of a half": lambda index, segment: index.update(pool_factor=0.5),
    "a commit that is true": lambda index, segment: index.update(commit=True),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_signed_manifest_that_no_writer_makes_is_damaged_and_nothing_outside_is_touched(folder, lie):
    other = folder.parent / "other"
    before = {path: path.read_bytes() for path in other.rglob("*") if path.is_file()}
    sign(folder, LIES[lie])
    for writable in (False, True):
        with pytest.raises(DamagedIndexError, match="damaged"):
            StoredIndex.open(folder, writable=writable)
    assert {path: path.read_bytes() for path in other.rglob("*") if path.is_file()} == before


def test_arrays_of_a_segment_that_are_no_arrays_of_its_codec_are_damaged(folder):
    import numpy as np

    from drdecr.retrieval.stored.manifest import file_record

    whole = folder / "segments" / "s000001"
    for name, array in (
        ("centroid_ids", np.full(5, 9, dtype=np.uint16)),
        ("offsets", np.array([0, 4, 2, 5])),
        ("offsets", np.array(["x"], dtype=object)),
        ("buckets", np.zeros(3, dtype=np.float32)),
    ):
        path = whole / f"{name}.npy"
        content = path.read_bytes()
        np.save(path, array, allow_pickle=True)
        sign(folder, lambda index, segment, path=path: segment["files"].update({path.name: file_record(path)}))
        with pytest.raises(DamagedIndexError, match="s000001: damaged"):
            StoredIndex.open(folder)
        path.write_bytes(content)
        sign(folder, lambda index, segment, path=path: segment["files"].update({path.name: file_record(path)}))
    StoredIndex.open(folder)


def test_a_writer_deletes_what_bears_its_own_names_alone(folder):
    segments = folder / "segments"
    for name in ("backup", "s1", "s000009", ".s000009.77.tmp", "s000001/@eaDir"):
        (segments / name).mkdir()
        (segments / name / "a.jpg").write_text("mine")
    (segments / "s000001" / "notes.txt").write_text("mine")
    (segments / "s000001" / "deleted-000001.npy").write_text("of a writer that was killed")
    StoredIndex.open(folder, writable=True).close()
    assert {path.name for path in segments.iterdir()} == {"backup", "s1", "s000001"}
    assert (segments / "backup" / "a.jpg").read_text() == "mine"
    assert (segments / "s000001" / "notes.txt").exists()
    assert (segments / "s000001" / "@eaDir" / "a.jpg").exists()
    assert not (segments / "s000001" / "deleted-000001.npy").exists()


@pytest.mark.parametrize("place", ["segments", "segments/s000001", "segments/s000009", "write.lock"])
def test_an_index_whose_parts_are_links_is_searched_and_not_changed(folder, place):
    disk = folder.parent / "disk"
    (disk / "photos").mkdir(parents=True)
    (disk / "photos" / "a.jpg").write_text("mine")
    (disk / "s000007").mkdir()
    path = folder / place
    if place == "write.lock":
        path.unlink(missing_ok=True)
        path.symlink_to(disk / "photos" / "a.jpg")
    elif path.exists():
        path.rename(disk / "moved")
        for part in (disk / "moved").iterdir() if place == "segments" else ():
            part.rename(disk / part.name)
        path.symlink_to(disk if place == "segments" else disk / "moved")
    else:
        path.symlink_to(disk)
    files = sorted(disk.rglob("*"))
    assert StoredIndex.open(folder).passage_ids() == ["a"]
    with pytest.raises(ValueError, match=f"{place}: expected no link in an index that is to be changed"):
        StoredIndex.open(folder, writable=True)
    assert sorted(disk.rglob("*")) == files
    assert (disk / "photos" / "a.jpg").read_text() == "mine"


def test_a_link_to_a_whole_index_is_the_index(folder):
    (folder.parent / "link").symlink_to(folder)
    with StoredIndex.open(folder.parent / "link", writable=True) as index:
        index.add(["c"], [unit(1)])
        index.commit()
    assert sorted(StoredIndex.open(folder).passage_ids()) == ["a", "c"]


def test_a_new_index_is_not_made_behind_a_link(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "segments").symlink_to(tmp_path / "empty")
    with pytest.raises(ValueError, match="new or empty folder"):
        StoredIndex.create(tmp_path / "index", dim=8)


def test_a_commit_over_the_commit_of_another_writer_is_refused(folder):
    first = StoredIndex.open(folder, writable=True)
    (folder / "write.lock").unlink()  # as who takes it for the remains of a crash
    with StoredIndex.open(folder, writable=True) as second:
        second.add(["theirs"], [unit(2)])
        second.commit()
        for change in (lambda: first.add(["ours"], [unit(2)]), lambda: first.delete(["a"])):
            change()
            with pytest.raises(ValueError, match="another process committed to this index since it was opened here"):
                first.commit()
        with pytest.raises(ValueError, match="another process committed"):
            first.compact()
    first.close()
    index = StoredIndex.open(folder)
    assert sorted(index.passage_ids()) == ["a", "theirs"]
    assert len(index.search([unit(1)]).document_ids[0]) == 2


@pytest.mark.parametrize("how", ["cut", "overwritten"])
def test_a_file_that_is_written_to_in_place_is_named_by_the_next_search(folder, how):
    index = StoredIndex.open(folder)
    [path] = (folder / "segments").rglob("codes.npy")
    content = path.read_bytes()
    with path.open("r+b") as file:
        file.truncate(len(content) // 2) if how == "cut" else file.write(content[:-1] + b"x")
    import os

    os.utime(path, ns=(1, 1))  # the clock of a file system may be coarse
    for call in (lambda: index.search([unit(1)]), lambda: index.embeddings(["a"]), lambda: index.payloads(["a"])):
        with pytest.raises(DamagedIndexError, match=r"codes\.npy: changed in place since it was opened"):
            call()


def test_files_that_others_took_the_place_of_are_read_on(folder):
    index = StoredIndex.open(folder)
    before = index.search([unit(1)])
    folder.rename(folder.parent / "old")
    (folder.parent / "other").rename(folder)
    assert index.search([unit(1)]) == before
