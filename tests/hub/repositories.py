"""What a Hub keeps, in memory: repositories, their commits, branches and tags, and the contents of files.

Standard library only; ids are the real ones (git's for files, SHA-256 for large files), so that clients cache as they
do with the real Hub.
"""

import base64
import hashlib
import itertools
import json
import re
import threading
from dataclasses import dataclass, field
from typing import Any

ACCOUNTS = {"hf_alice_write": ("alice", "write"), "hf_alice_read": ("alice", "read"), "hf_bob_write": ("bob", "write")}
"""Token: its user and its role. Whoever owns a namespace may write to it, with a token that may write."""

LARGE_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".pkl", ".parquet", ".arrow", ".npz", ".png", ".gz", ".model")
DATE = "2026-01-01T00:00:00.000Z"


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


@dataclass
class File:
    """A file of a commit: git's id of it (of its pointer, if it is large), its content's SHA-256 and its size."""

    oid: str
    sha256: str
    size: int
    pointer_size: int | None = None

    @property
    def etag(self) -> str:
        return self.oid if self.pointer_size is None else self.sha256


@dataclass
class Commit:
    files: dict[str, File]
    title: str
    message: str
    parent: str | None


@dataclass
class Repository:
    name: str
    private: bool
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)

    def find(self, revision: str) -> str:
        """Return the commit that a branch, a tag or (the start of) a commit id names."""
        known = self.branches.get(revision) or self.tags.get(revision)
        if known:
            return known
        found = [commit for commit in self.commits if len(revision) >= 7 and commit.startswith(revision)]
        if len(found) != 1:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found[0]


class Store:
    """All repositories of a Hub, by (kind, name), and the contents that they share."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.contents: dict[str, bytes] = {}
        self.repositories: dict[tuple[str, str], Repository] = {}
        self._count = itertools.count()

    def create(self, kind: str, name: str, private: bool) -> None:
        with self.lock:
            if (kind, name) in self.repositories:
                raise Refused(409, "You already created this repo")
            if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
                raise Refused(400, f"Invalid repo name: {name}")
            repository = self.repositories[kind, name] = Repository(name, private)
            self._add(repository, "main", Commit({}, "initial commit", "", None))

    def open(self, kind: str, name: str, user: str | None) -> Repository:
        """Return a repository that a user may read: one that is private is not there for others."""
        repository = self.repositories.get((kind, name))
        if repository is None or (repository.private and name.split("/")[0] != user):
            raise Refused(404 if user else 401, "Repository not found", "RepoNotFound")
        return repository

    def put(self, content: bytes) -> str:
        sha256 = hashlib.sha256(content).hexdigest()
        self.contents[sha256] = content
        return sha256

    def commit(self, repository: Repository, branch: str, lines: list[dict[str, Any]]) -> str:
        """Apply the operations of a commit, all or none."""
        header = next(line["value"] for line in lines if line["key"] == "header")
        with self.lock:
            if branch not in repository.branches:
                raise Refused(404, f"Invalid rev id: {branch}", "RevisionNotFound")
            parent = repository.branches[branch]
            if header.get("parentCommit") not in (None, parent):
                raise Refused(412, "A commit has happened since. Please refresh and try again.")
            files = dict(repository.commits[parent].files)
            for line in lines:
                self._apply(files, line["key"], line["value"])
            title, message = header.get("summary", ""), header.get("description", "")
            return self._add(repository, branch, Commit(files, title, message, parent))

    def _apply(self, files: dict[str, File], key: str, value: dict[str, Any]) -> None:
        if key == "file":
            content = base64.b64decode(value["content"])
            files[value["path"]] = File(_git_id(content), self.put(content), len(content))
        elif key == "lfsFile":
            if value["oid"] not in self.contents:
                raise Refused(400, f"LFS pointer to a missing object: {value['oid']}")
            size = len(self.contents[value["oid"]])
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{value['oid']}\nsize {size}\n".encode()
            files[value["path"]] = File(_git_id(pointer), value["oid"], size, len(pointer))
        elif key == "deletedFile":
            if files.pop(value["path"], None) is None:
                raise Refused(404, f"{value['path']} does not exist", "EntryNotFound")
        elif key == "deletedFolder":
            for path in [path for path in files if path.startswith(value["path"].rstrip("/") + "/")]:
                del files[path]

    def _add(self, repository: Repository, branch: str, commit: Commit) -> str:
        content = json.dumps([repository.name, branch, commit.title, commit.parent, next(self._count)])
        commit_id = hashlib.sha1(content.encode()).hexdigest()
        repository.commits[commit_id] = commit
        repository.branches[branch] = commit_id
        return commit_id


def _git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
