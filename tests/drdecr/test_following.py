"""An open index follows its commits."""

import pytest
import torch

from drdecr.retrieval import StoredIndex
from drdecr.retrieval.retriever import Following
from drdecr.retrieval.stored.manifest import MANIFEST_NAME


def test_a_damaged_commit_is_named_once_and_the_next_whole_one_followed(tmp_path):
    with StoredIndex.create(tmp_path / "index", 4) as index:
        index.add(["one"], [torch.ones(2, 4)])
        index.commit()
    opened = StoredIndex.open(tmp_path / "index")
    following = Following(opened)
    assert not following.follow()
    whole = (tmp_path / "index" / MANIFEST_NAME).read_text()
    (tmp_path / "index" / MANIFEST_NAME).write_text("{")
    with pytest.raises(ValueError, match="index"):
        following.follow()
    assert not following.follow()  # not tried again before the next commit
    (tmp_path / "index" / MANIFEST_NAME).write_text(whole)
    with StoredIndex.open(tmp_path / "index", writable=True) as index:
        index.add(["two"], [torch.ones(2, 4)])
        index.commit()
    assert following.follow()
    assert len(opened) == 2
