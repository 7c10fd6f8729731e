"""An open index follows its commits, shard by shard."""

import pytest
import torch

from drdecr.following import Following
from drdecr.retrieval import StoredIndex
from drdecr.retrieval.manifest import NAME


def test_a_shard_that_cannot_be_followed_keeps_no_other_back(tmp_path):
    for name in ("first", "second"):
        with StoredIndex.create(tmp_path / name, 4) as index:
            index.add(["one"], [torch.ones(2, 4)])
            index.commit()
    opened = [StoredIndex.open(tmp_path / name) for name in ("first", "second")]
    following = Following(None)
    following._indexes = opened
    assert not following.follow()
    with StoredIndex.open(tmp_path / "second", writable=True) as index:
        index.add(["two"], [torch.ones(2, 4)])
        index.commit()
    (tmp_path / "first" / NAME).write_text("{")
    with pytest.raises(ValueError, match="first"):
        following.follow()
    assert [len(index) for index in opened] == [1, 2]
    assert not following.follow()  # neither is tried again before its next commit
