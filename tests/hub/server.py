"""A small Hub over HTTP, for tests: `python server.py` prints its address and serves until its input ends.

It speaks the routes that `huggingface_hub` calls to create, upload, list and download, without Xet. Tests speak to it
under `/test/`: they read which requests came, and ask for failures (`Failure`).
"""

import base64
import json
import re
import socket
import sys
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from repositories import ACCOUNTS, DATE, LARGE_SUFFIXES, File, Refused, Repository, Store

PREFIX = {"models": "", "datasets": "datasets/", "spaces": "spaces/"}


@dataclass
class Failure:
    """What happens to the next `times` requests of a method whose path holds a pattern.

    Either `status` and `message` are answered, or the connection is cut after `cut_after` bytes of the file's content.
    """

    method: str
    path: str
    status: int | None = None
    message: str = ""
    cut_after: int | None = None
    times: int = 1


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.forget()

    def forget(self) -> None:
        self.store = Store()
        self.failures: list[Failure] = []
        self.requests: list[list[str]] = []

    def handle_error(self, *_: Any) -> None:
        """A client that went away is no event."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def answer_request(self) -> None:
        url = urlsplit(self.path)
        self.query = {name: found[-1] for name, found in parse_qs(url.query, keep_blank_values=True).items()}
        self.cut_after: int | None = None
        self.body: bytes | None = None
        if not url.path.startswith("/test/"):
            self.server.requests.append([self.command, unquote(url.path), self.headers.get("Range", "")])
            self.fail(unquote(url.path))
        try:
            for methods, pattern, function in ROUTES:
                match = pattern.fullmatch(url.path)
                if match and self.command in methods.split():
                    return function(self, **{name: unquote(text or "") for name, text in match.groupdict().items()})
            raise Refused(404, f"no such route: {self.command} {url.path}")
        except Refused as refused:
            self.read()
            code = {"X-Error-Code": refused.code} if refused.code else {}
            self.send({"error": refused.message}, refused.status, {"X-Error-Message": refused.message, **code})

    def do_any(self) -> None:
        try:
            self.answer_request()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_any

    def fail(self, path: str) -> None:
        for failure in self.server.failures:
            if failure.times > 0 and failure.method == self.command and re.search(failure.path, path):
                failure.times -= 1
                self.cut_after = failure.cut_after
                if failure.status is not None:
                    self.read()
                    self.send({"error": failure.message}, failure.status, {"X-Error-Message": failure.message})
                    raise BrokenPipeError

    def cut(self) -> None:
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
        raise BrokenPipeError

    def read(self) -> bytes:
        if self.body is None:
            length = int(self.headers.get("Content-Length") or 0)
            if self.cut_after is not None and self.command in ("PUT", "POST"):
                self.rfile.read(min(length, self.cut_after))
                self.cut()
            chunked = self.headers.get("Transfer-Encoding", "").lower() == "chunked"
            self.body = b"".join(self.chunks()) if chunked else self.rfile.read(length)
        return self.body

    def chunks(self) -> Any:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def json(self) -> Any:
        return json.loads(self.read() or b"{}")

    def send(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        length = {"Content-Length": str(len(body))}
        for name, value in {"Content-Type": "application/json", **length, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            if self.cut_after is not None:
                self.wfile.write(body[: self.cut_after])
                self.cut()
            self.wfile.write(body)

    # Who asks, and what they may do

    def account(self) -> tuple[str, str] | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if token and token not in ACCOUNTS:
            raise Refused(401, "Invalid credentials in Authorization header")
        return ACCOUNTS.get(token)

    def readable(self, kind: str, name: str) -> Repository:
        account = self.account()
        return self.server.store.open(kind or "models", name, account[0] if account else None)

    def writable(self, kind: str, name: str) -> Repository:
        repository = self.readable(kind, name)
        self.check_may_write(name)
        return repository

    def check_may_write(self, name: str) -> None:
        account = self.account()
        if account is None:
            raise Refused(401, "Invalid username or password.")
        if account != (name.split("/")[0], "write"):
            raise Refused(403, f"You don't have the rights to write to {name}")

    def whoami(self) -> None:
        account = self.account()
        if account is None:
            raise Refused(401, "Invalid username or password.")
        token = {"displayName": "test", "role": account[1]}
        self.send({"type": "user", "name": account[0], "orgs": [], "auth": {"accessToken": token}})

    # Repositories and their revisions

    def create_repository(self) -> None:
        asked, account = self.json(), self.account()
        if account is None:
            raise Refused(401, "Invalid username or password.")
        name, kind = f"{asked.get('organization') or account[0]}/{asked['name']}", asked.get("type", "model") + "s"
        self.check_may_write(name)
        url, status = f"{self.server.address}/{PREFIX[kind]}{name}", 200
        try:
            private = bool(asked.get("private")) or asked.get("visibility") == "private"
            self.server.store.create(kind, name, private)
        except Refused as refused:
            if refused.status != 409:
                raise
            status = 409
        self.send({"url": url, "name": name, "id": name}, status)

    def delete_repository(self) -> None:
        asked, account = self.json(), self.account()
        name = f"{asked.get('organization') or (account or ['?'])[0]}/{asked['name']}"
        kind = asked.get("type", "model") + "s"
        self.writable(kind, name)
        del self.server.store.repositories[kind, name]
        self.send({})

    def settings(self, kind: str, name: str) -> None:
        self.writable(kind, name).private = bool(self.json().get("private"))
        self.send({})

    def information(self, kind: str, name: str, revision: str = "main") -> None:
        repository = self.readable(kind, name)
        commit_id = repository.find(revision)
        files = repository.commits[commit_id].files
        about = {"id": name, "modelId": name, "author": name.split("/")[0], "sha": commit_id, "gated": False}
        about |= {"private": repository.private, "lastModified": DATE, "createdAt": DATE, "tags": [], "downloads": 0}
        listed = [{"rfilename": path, "size": file.size, "blobId": file.oid} for path, file in sorted(files.items())]
        self.send({**about, "siblings": listed}, headers={"X-Repo-Commit": commit_id})

    def references(self, kind: str, name: str) -> None:
        repository = self.readable(kind, name)
        tables = {"branches": ("heads", repository.branches), "tags": ("tags", repository.tags)}
        found = {
            table: [{"name": key, "ref": f"refs/{place}/{key}", "targetCommit": commit} for key, commit in all_.items()]
            for table, (place, all_) in tables.items()
        }
        self.send({**found, "converts": []})

    def commits(self, kind: str, name: str, revision: str) -> None:
        repository = self.readable(kind, name)
        commit_id: str | None = repository.find(revision)
        history = []
        while commit_id:
            commit = repository.commits[commit_id]
            about = {"title": commit.title, "message": commit.message, "date": DATE, "authors": []}
            history.append({"id": commit_id, **about})
            commit_id = commit.parent
        self.send(history)

    def branch(self, kind: str, name: str, branch: str) -> None:
        repository = self.writable(kind, name)
        if self.command == "DELETE":
            repository.branches.pop(branch)
        elif branch in repository.branches:
            raise Refused(409, f"Reference already exists: {branch}")
        else:
            repository.branches[branch] = repository.find(self.json().get("startingPoint") or "main")
        self.send({})

    def tag(self, kind: str, name: str, revision: str) -> None:
        repository = self.writable(kind, name)
        if self.command == "DELETE":
            repository.tags.pop(revision)
        elif (tag := self.json()["tag"]) in repository.tags:
            raise Refused(409, f"Tag reference exists already: {tag}")
        else:
            repository.tags[tag] = repository.find(revision)
        self.send({})

    # Reading files

    def tree(self, kind: str, name: str, revision: str, path: str = "") -> None:
        repository = self.readable(kind, name)
        commit_id = repository.find(revision)
        base = path.strip("/") + "/" if path.strip("/") else ""
        rows: dict[str, Any] = {}
        for file_path, file in sorted(repository.commits[commit_id].files.items()):
            if not file_path.startswith(base):
                continue
            first, *deeper = file_path.removeprefix(base).split("/")
            if deeper:
                rows[base + first] = _folder(base + first)
            if not deeper or self.query.get("recursive", "").lower() in ("1", "true"):
                rows[file_path] = _entry(file_path, file)
        if base and not rows:
            raise Refused(404, f"{path} does not exist", "EntryNotFound")
        self.send(list(rows.values()), headers={"X-Repo-Commit": commit_id})

    def paths_info(self, kind: str, name: str, revision: str) -> None:
        repository = self.readable(kind, name)
        commit_id = repository.find(revision)
        files = repository.commits[commit_id].files
        if "urlencoded" in self.headers.get("Content-Type", ""):
            paths = parse_qs(self.read().decode()).get("paths", [])
        else:
            paths = self.json()["paths"]
        rows = [_entry(path, files[path]) for path in paths if path in files]
        rows += [_folder(path) for path in paths if any(known.startswith(path.rstrip("/") + "/") for known in files)]
        self.send(rows, headers={"X-Repo-Commit": commit_id})

    def resolve(self, kind: str, name: str, revision: str, path: str) -> None:
        repository = self.readable(kind, name)
        commit_id = repository.find(revision)
        file = repository.commits[commit_id].files.get(path)
        if file is None:
            raise Refused(404, "Entry not found", "EntryNotFound")
        headers = {"X-Repo-Commit": commit_id, "ETag": f'"{file.etag}"', "Content-Type": "application/octet-stream"}
        headers["Accept-Ranges"] = "bytes"
        if file.pointer_size is not None:
            headers |= {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(file.size)}
        if self.command == "HEAD":  # the length is the file's, though nothing of it is sent
            return self.send(b"", headers={**headers, "Content-Length": str(file.size)})
        content, status = self.server.store.contents[file.sha256], 200
        if match := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
            first, last = match.groups()
            start = int(first) if first else max(0, file.size - int(last))
            end = min(int(last) + 1, file.size) if first and last else file.size
            if start >= file.size:
                return self.send(b"", 416, {**headers, "Content-Range": f"bytes */{file.size}"})
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
            content, status = content[start:end], 206
        self.send(content, status, headers)

    # Writing files

    def preupload(self, kind: str, name: str, revision: str) -> None:
        repository = self.writable(kind, name)
        known = repository.commits[repository.find(revision)].files
        rows = []
        for file in self.json()["files"]:
            path, old = file["path"], known.get(file["path"])
            is_binary = b"\0" in base64.b64decode(file.get("sample", ""))
            mode = "lfs" if path.endswith(LARGE_SUFFIXES) or is_binary else "regular"
            oid = old.etag if old else None
            rows.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.send({"files": rows})

    def large_batch(self, kind: str, name: str) -> None:
        self.writable(kind.rstrip("/"), name)
        rows = []
        for wanted in self.json()["objects"]:
            row, href = {"oid": wanted["oid"], "size": wanted["size"]}, f"{self.server.address}/lfs/{wanted['oid']}"
            if wanted["oid"] not in self.server.store.contents:  # one that is there need not come again
                row["actions"] = {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}
            rows.append(row)
        self.send({"transfer": "basic", "objects": rows})

    def large_put(self, oid: str) -> None:
        content = self.read()
        if self.server.store.put(content) != oid:
            raise Refused(400, "the content is not what its oid says")
        self.send(b"")

    def large_verify(self, oid: str) -> None:
        found = self.server.store.contents.get(oid)
        is_whole = found is not None and len(found) == self.json()["size"]
        self.send({}, 200 if is_whole else 404)

    def commit(self, kind: str, name: str, revision: str) -> None:
        repository = self.writable(kind, name)
        lines = [json.loads(line) for line in self.read().splitlines() if line.strip()]
        commit_id = self.server.store.commit(repository, revision, lines)
        url = f"{self.server.address}/{PREFIX[kind]}{name}/commit/{commit_id}"
        self.send({"success": True, "commitOid": commit_id, "commitUrl": url, "hookOutput": ""})

    def validate_yaml(self) -> None:
        from cards import problems  # here, since its imports take longer than this server's start

        asked = self.json()
        errors, warnings = problems(asked.get("repoType") or "model", asked["content"])
        said = {"errors": [{"message": error} for error in errors]}
        said["warnings"] = [{"message": warning} for warning in warnings]
        self.send(said, 400 if errors else 200)

    # For the tests

    def test_requests(self) -> None:
        self.send(self.server.requests)

    def test_fail(self) -> None:
        self.server.failures.append(Failure(**self.json()))
        self.send({})

    def test_forget(self) -> None:
        self.server.forget()
        self.send({})

    def test_heal(self) -> None:
        self.server.failures.clear()
        self.server.requests.clear()
        self.send({})


def _entry(path: str, file: File) -> dict[str, Any]:
    large = {"oid": file.sha256, "size": file.size, "pointerSize": file.pointer_size}
    entry = {"type": "file", "oid": file.oid, "size": file.size, "path": path}
    return entry if file.pointer_size is None else {**entry, "lfs": large}


def _folder(path: str) -> dict[str, Any]:
    return {"type": "directory", "oid": "0" * 40, "size": 0, "path": path}


NAME, REVISION = "(?P<name>[^/]+/[^/]+)", "(?P<revision>[^/]+)"
API = f"/api/(?P<kind>models|datasets|spaces)/{NAME}"
ROUTES: list[tuple[str, re.Pattern[str], Any]] = [
    (methods, re.compile(pattern), function)
    for methods, pattern, function in (
        ("GET", "/test/requests", Handler.test_requests),
        ("POST", "/test/fail", Handler.test_fail),
        ("POST", "/test/forget", Handler.test_forget),
        ("POST", "/test/heal", Handler.test_heal),
        ("GET", "/api/whoami-v2", Handler.whoami),
        ("POST", "/api/repos/create", Handler.create_repository),
        ("DELETE", "/api/repos/delete", Handler.delete_repository),
        ("POST", "/api/validate-yaml", Handler.validate_yaml),
        ("GET", f"{API}/revision/{REVISION}", Handler.information),
        ("GET", f"{API}/refs", Handler.references),
        ("GET", f"{API}/commits/{REVISION}", Handler.commits),
        ("GET", f"{API}/tree/{REVISION}(?:/(?P<path>.*))?", Handler.tree),
        ("POST", f"{API}/paths-info/{REVISION}", Handler.paths_info),
        ("POST", f"{API}/preupload/{REVISION}", Handler.preupload),
        ("POST", f"{API}/commit/{REVISION}", Handler.commit),
        ("POST DELETE", f"{API}/branch/(?P<branch>[^/]+)", Handler.branch),
        ("POST DELETE", f"{API}/tag/{REVISION}", Handler.tag),
        ("PUT", f"{API}/settings", Handler.settings),
        ("GET", API, Handler.information),
        ("POST", rf"/(?P<kind>datasets/|spaces/)?{NAME}\.git/info/lfs/objects/batch", Handler.large_batch),
        ("PUT", "/lfs/(?P<oid>[0-9a-f]{64})", Handler.large_put),
        ("POST", "/lfs/(?P<oid>[0-9a-f]{64})/verify", Handler.large_verify),
        ("GET HEAD", f"/(?:(?P<kind>datasets|spaces)/)?{NAME}/resolve/{REVISION}/(?P<path>.+)", Handler.resolve),
    )
]


def main() -> None:
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.address, flush=True)
    sys.stdin.read()  # ends with the tests, however they end


if __name__ == "__main__":
    main()
