"""A hub on loopback: as much of the Hugging Face hub's protocol as its Python libraries speak."""

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import parse_qs, unquote, urlsplit

LFS = re.compile(r".*\.(safetensors|bin|pt|pth|ckpt|parquet|arrow|tar|zip|png|jpg|webp)$")
"""Files that the hub keeps on another host, to which it redirects; no token may follow there."""

DATE = "2024-01-01T00:00:00.000Z"
API = re.compile(r"/api/(model|dataset)s/((?:[^/]+/)?[^/]+)/(revision|tree|paths-info|refs|preupload|commit)(?:/(.*))?")
INFO = re.compile(r"/api/(model|dataset)s/((?:[^/]+/)?[^/]+)")
RESOLVE = re.compile(r"/(datasets/)?((?:[^/]+/)?[^/]+)/resolve/([^/]+)/(.+)")
BATCH = re.compile(r"/(datasets/)?((?:[^/]+/)?[^/]+)\.git/info/lfs/objects/batch")


def _sha1(content: bytes) -> Any:
    """Git's hash."""
    return hashlib.sha1(content, usedforsecurity=False)


@dataclass(frozen=True)
class Request:
    """What was asked: method, path with query, headers in lower case, and whether of the host of large files."""

    method: str
    path: str
    headers: dict[str, str]
    cdn: bool = False

    @property
    def token(self) -> str | None:
        """The token that came with it."""
        return self.headers.get("authorization", "").removeprefix("Bearer ") or None


@dataclass
class Repo:
    """Commits by their hash, each with all its files, and what branches and tags point to."""

    kind: str
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    granted: frozenset[str] | None = None
    private: bool = False
    truncated: set[str] = field(default_factory=set)
    claimed: dict[str, int] = field(default_factory=dict)
    """Sizes that it says files have, where they have others."""

    def commit(self, files: dict[str, bytes], revision: str) -> str:
        digest = _sha1(f"{len(self.commits)} {revision}".encode())
        for name, content in sorted(files.items()):
            digest.update(name.encode() + _sha1(content).digest())
        sha = digest.hexdigest()
        self.commits[sha], self.refs[revision] = files, sha
        return sha


class RefusedError(Exception):
    """An answer that is an error, with the hub's headers."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class FakeHub:
    """A hub that serves what a test gives it, and keeps what it is sent.

    Every token is somebody's; only those that `gate` grants pass a gate, and writing needs one. Large files come by a
    redirect from another host (another port), as on the real hub.

    Attributes:
        url: its endpoint.
        requests: all it was asked, in order.
        outage: an HTTP status to answer everything with, such as 503; None if all is well.
        delay: seconds that every answer takes.
    """

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.requests: list[Request] = []
        self.outage: int | None = None
        self.delay = 0.0
        self.repos: dict[tuple[str, str], Repo] = {}
        self.blobs: dict[str, bytes] = {}
        handlers = [type("Bound", (Handler,), {"hub": self, "cdn": cdn}) for cdn in (False, True)]
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for handler in handlers]
        self._threads = [threading.Thread(target=server.serve_forever, args=(0.02,)) for server in self._servers]
        for server, thread in zip(self._servers, self._threads, strict=True):
            server.daemon_threads = True
            thread.start()
        self.url, self.cdn = (f"http://127.0.0.1:{server.server_address[1]}" for server in self._servers)

    @property
    def environ(self) -> dict[str, str]:
        """Variables that point a child process at this hub, with caches of its own."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(self.cache),
            "HF_HUB_CACHE": str(self.cache / "hub"),
            "HF_DATASETS_CACHE": str(self.cache / "datasets"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
        }

    def add(self, repo_id: str, folder: Path, kind: str = "model", revision: str = "main") -> str:
        """Publish a folder as a commit that a branch or tag points to, as if it held nothing before.

        Returns:
            The commit, 40 hexadecimal digits.
        """
        files = {
            str(f.relative_to(folder).as_posix()): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()
        }
        return self.repos.setdefault((kind, repo_id), Repo(kind)).commit(files, revision)

    def files(self, repo_id: str, kind: str = "model", revision: str = "main") -> dict[str, bytes]:
        """What a repo holds at a revision."""
        repo = self.repos[kind, repo_id]
        return repo.commits[repo.refs.get(revision, revision)]

    def gate(self, repo_id: str, *granted: str, kind: str = "model") -> None:
        """From now on the repo's files are for these tokens only."""
        self.repos[kind, repo_id].granted = frozenset(granted)

    def truncate(self, repo_id: str, path: str, kind: str = "model") -> None:
        """From now on the connection breaks in the middle of this file."""
        self.repos[kind, repo_id].truncated.add(path)

    def asked(self, part: str, method: str | None = None) -> list[Request]:
        """The requests whose path holds `part`."""
        return [r for r in self.requests if part in unquote(r.path) and method in (None, r.method)]

    def stop(self) -> None:
        """Go down: from now on connections are refused."""
        for server, thread in zip(self._servers, self._threads, strict=True):
            if thread.is_alive():
                server.shutdown()
                server.server_close()
                thread.join()

    @contextmanager
    def serving(self) -> Iterator["FakeHub"]:
        """Within, this process's libraries, which read their settings when imported, take this for the hub."""
        import datasets
        import diffusers.utils.hub_utils
        import transformers.utils.hub
        from huggingface_hub import HfFileSystem, close_session, constants, hf_api
        from huggingface_hub.utils import _http

        origin = ("http", "127.0.0.1", int(self.url.rsplit(":", 1)[1]))
        template = "{repo_id}/resolve/{revision}/{filename}"
        values: list[tuple[Any, str, Any]] = [
            (constants, "ENDPOINT", self.url),
            (constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{self.url}/{template}"),
            (constants, "HF_HUB_OFFLINE", False),
            (constants, "HF_HUB_DISABLE_XET", True),
            (constants, "HF_HOME", str(self.cache)),
            (constants, "HF_HUB_CACHE", str(self.cache / "hub")),
            (constants, "HF_ASSETS_CACHE", str(self.cache / "assets")),
            (constants, "HF_TOKEN_PATH", str(self.cache / "token")),
            (constants, "HF_STORED_TOKENS_PATH", str(self.cache / "stored_tokens")),
            (_http, "_HUB_ORIGINS", _http._HUB_ORIGINS | {origin}),
            (hf_api.api, "endpoint", self.url),
            (transformers.utils.hub, "_hf_api", None),
            (diffusers.utils.hub_utils, "HF_HUB_OFFLINE", False),
            (datasets.config, "HF_ENDPOINT", self.url),
            (datasets.config, "HUB_DATASETS_URL", self.url + "/datasets/{repo_id}/resolve/{revision}/{path}"),
            (datasets.config, "HF_HUB_OFFLINE", False),
            (datasets.config, "HF_DATASETS_OFFLINE", False),
            (datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False),
            (datasets.config, "HF_DATASETS_CACHE", self.cache / "datasets"),
            (datasets.config, "DOWNLOADED_DATASETS_PATH", self.cache / "datasets" / "downloads"),
            (datasets.config, "EXTRACTED_DATASETS_PATH", self.cache / "datasets" / "downloads" / "extracted"),
        ]
        patches = [patch.object(owner, name, value) for owner, name, value in values]
        patches.append(patch.dict("os.environ", self.environ))
        for started in patches:
            started.start()
        try:
            HfFileSystem.clear_instance_cache()
            close_session()
            yield self
        finally:
            for started in reversed(patches):
                started.stop()
            HfFileSystem.clear_instance_cache()
            close_session()


def _blob(path: str, content: bytes, expand: bool) -> dict[str, Any]:
    """A file as the hub's listings have it."""
    oid = _sha1(b"blob %d\0" % len(content) + content).hexdigest()
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": oid}
    if LFS.match(path):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return entry | (_last() if expand else {})


def _folder(path: str, expand: bool) -> dict[str, Any]:
    oid = _sha1(path.encode()).hexdigest()
    return {"type": "directory", "path": path, "size": 0, "oid": oid} | (_last() if expand else {})


def _last() -> dict[str, Any]:
    return {"lastCommit": {"id": "0" * 40, "title": "add", "date": DATE}}


class Handler(BaseHTTPRequestHandler):
    """Answers one request; connections are not kept, so that `FakeHub.stop` is final."""

    hub: FakeHub
    cdn: bool
    token: str | None
    query: dict[str, list[str]]
    body: bytes

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.answer(_large if self.cdn else _get)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.answer(_post)

    def do_PUT(self) -> None:
        self.answer(_put)

    def answer(self, serve: Callable[["Handler", FakeHub, str], None]) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers, self.cdn)
        self.hub.requests.append(request)
        if self.hub.delay:
            time.sleep(self.hub.delay)
        self.token = request.token
        self.body = self.rfile.read(int(headers.get("content-length", 0)))
        if "chunked" in headers.get("transfer-encoding", ""):
            while size := int(self.rfile.readline(), 16):
                self.body += self.rfile.read(size)
                self.rfile.readline()
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        try:
            if self.hub.outage is not None:
                raise RefusedError(self.hub.outage, "", "the hub is down")
            serve(self, self.hub, parts.path)
        except RefusedError as error:
            extra = {"X-Error-Code": error.code} if error.code else {}
            extra["X-Error-Message"] = error.message
            self.send(json.dumps({"error": error.message}).encode(), error.status, extra)

    def send(self, content: bytes, status: int = 200, extra: dict[str, str] | None = None, cut: bool = False) -> None:
        """An answer, or as much of it as was asked for; if cut, less than announced."""
        ranged = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        total = len(content)
        if ranged and status == 200:
            first, last = int(ranged[1]), min(int(ranged[2] or total - 1), total - 1)
            if first >= total:
                raise RefusedError(416, "", "no such range")
            content, status = content[first : last + 1], 206
            extra = (extra or {}) | {"Content-Range": f"bytes {first}-{last}/{total}"}
        self.send_response(status)
        for name, value in {"Content-Type": "application/octet-stream", **(extra or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)

    def json(self, value: Any, status: int = 200) -> None:
        self.send(json.dumps(value).encode(), status, {"Content-Type": "application/json"})


def _repo(handler: Any, hub: FakeHub, kind: str, repo_id: str) -> Repo:
    """A repo, if there is one that may be seen; without a token the hub does not say which."""
    repo = hub.repos.get((kind, repo_id))
    if repo is None or (repo.private and handler.token is None):
        if handler.token is None:
            raise RefusedError(401, "RepoNotFound", "Invalid username or password.")
        raise RefusedError(404, "RepoNotFound", "Repository not found")
    return repo


def _sha(repo: Repo, revision: str) -> str:
    revision = unquote(revision)
    full = repo.refs.get(revision, revision)
    if full not in repo.commits:
        raise RefusedError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    return full


def _get(handler: Any, hub: FakeHub, path: str) -> None:
    if match := RESOLVE.fullmatch(path):
        _resolve(handler, hub, match)
    elif (match := API.fullmatch(path)) and match[3] in {"revision", "tree", "refs"}:
        repo = _repo(handler, hub, match[1], unquote(match[2]))
        if match[3] == "refs":
            refs = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": sha} for n, sha in repo.refs.items()]
            handler.json({"branches": refs, "converts": [], "tags": []})
        elif match[3] == "revision":
            handler.json(_info(handler, repo, unquote(match[2]), _sha(repo, match[4])))
        else:
            revision, _, under = match[4].partition("/")
            handler.json(_tree(handler, repo.commits[_sha(repo, revision)], unquote(under)))
    elif path == "/api/whoami-v2":
        if handler.token is None:
            raise RefusedError(401, "", "Invalid username or password.")
        handler.json({"type": "user", "name": "somebody", "orgs": [], "auth": {"type": "access_token"}})
    elif match := INFO.fullmatch(path):
        repo = _repo(handler, hub, match[1], unquote(match[2]))
        handler.json(_info(handler, repo, unquote(match[2]), _sha(repo, "main")))
    else:
        raise RefusedError(404, "", f"no page {path}")


def _info(handler: Any, repo: Repo, repo_id: str, sha: str) -> dict[str, Any]:
    """What the hub says of a repository; with ``blobs`` in the query, how large its files are."""
    files = repo.commits[sha] if "blobs" in handler.query else {}
    sizes = {name: {"size": repo.claimed.get(name, len(content))} for name, content in files.items()}
    return {
        "_id": "0",
        "id": repo_id,
        "modelId": repo_id,
        "sha": sha,
        "private": repo.private,
        "gated": "manual" if repo.granted is not None else False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "lastModified": DATE,
        "createdAt": DATE,
        "siblings": [{"rfilename": name} | sizes.get(name, {}) for name in repo.commits[sha]],
    }


def _tree(handler: Any, files: dict[str, bytes], under: str) -> list[dict[str, Any]]:
    flags = {name: handler.query.get(name, ["False"])[0].lower() in {"true", "1"} for name in ("recursive", "expand")}
    prefix = f"{under}/" if under else ""
    inside = {name: content for name, content in files.items() if name.startswith(prefix)}
    if under and not inside:
        raise RefusedError(404, "EntryNotFound", f"{under} does not exist")
    shown, folders = [], set()
    for name, content in inside.items():
        parents = [str(p) for p in Path(name.removeprefix(prefix)).parents if str(p) != "."]
        folders |= {prefix + parent for parent in parents if flags["recursive"] or "/" not in parent}
        if flags["recursive"] or not parents:
            shown.append(_blob(name, content, flags["expand"]))
    return [_folder(name, flags["expand"]) for name in sorted(folders)] + shown


def _resolve(handler: Any, hub: FakeHub, match: re.Match[str]) -> None:
    repo = _repo(handler, hub, "dataset" if match[1] else "model", unquote(match[2]))
    sha, path = _sha(repo, match[3]), unquote(match[4])
    if repo.granted is not None and handler.token not in repo.granted:
        raise RefusedError(
            401 if handler.token is None else 403,
            "GatedRepo",
            f"Access to model {unquote(match[2])} is restricted and you are not in the authorized list.",
        )
    content = repo.commits[sha].get(path)
    headers = {"X-Repo-Commit": sha}
    if content is None:
        handler.send(b"Entry not found", 404, headers | {"X-Error-Code": "EntryNotFound"})
        return
    entry = _blob(path, content, expand=False)
    cut = path in repo.truncated
    if "lfs" not in entry:
        handler.send(content, 200, headers | {"ETag": f'"{entry["oid"]}"'}, cut)
        return
    oid = entry["lfs"]["oid"]
    hub.blobs[oid] = content
    headers |= {"X-Linked-Size": str(len(content)), "X-Linked-Etag": f'"{oid}"', "ETag": f'"{oid}"'}
    handler.send(b"", 302, headers | {"Location": f"{hub.cdn}/{oid}?cut={int(cut)}&path={path}"})


def _large(handler: Any, hub: FakeHub, path: str) -> None:
    """A large file, from the host of large files."""
    oid = path.removeprefix("/")
    handler.send(hub.blobs[oid], 200, {"ETag": f'"{oid}"'}, cut=handler.query.get("cut") == ["1"])


def _post(handler: Any, hub: FakeHub, path: str) -> None:
    if (match := API.fullmatch(path)) and match[3] == "paths-info":
        repo = _repo(handler, hub, match[1], unquote(match[2]))
        handler.json(_paths(handler, repo.commits[_sha(repo, match[4])]))
        return
    if handler.token is None:
        raise RefusedError(401, "", "Invalid username or password.")
    if path == "/api/validate-yaml":
        handler.json({"errors": [], "warnings": []})
    elif path == "/api/repos/create":
        wish = json.loads(handler.body)
        kind = wish.get("type") or "model"
        repo_id = f"{wish.get('organization') or 'somebody'}/{wish['name']}"
        url = f"{hub.url}/{'datasets/' if kind == 'dataset' else ''}{repo_id}"
        if (kind, repo_id) in hub.repos:
            handler.json({"error": "You already created this model repo", "url": url}, 409)
            return
        hub.repos[kind, repo_id] = repo = Repo(kind, private=wish.get("visibility") == "private")
        repo.commit({".gitattributes": b""}, "main")
        handler.json({"url": url, "name": repo_id, "id": "0"})
    elif BATCH.fullmatch(path):
        objects = [
            {**wanted, "actions": {"upload": {"href": f"{hub.cdn}/{wanted['oid']}"}}}
            for wanted in json.loads(handler.body)["objects"]
        ]
        handler.json({"transfer": "basic", "objects": objects})
    elif match is not None and match[3] == "preupload":
        _repo(handler, hub, match[1], unquote(match[2]))
        modes = [
            {"path": f["path"], "uploadMode": "lfs" if LFS.match(f["path"]) else "regular", "shouldIgnore": False}
            for f in json.loads(handler.body)["files"]
        ]
        handler.json({"files": modes})
    elif match is not None and match[3] == "commit":
        repo = _repo(handler, hub, match[1], unquote(match[2]))
        sha = _commit(hub, repo, unquote(match[4]), handler.body)
        handler.json({"success": True, "commitOid": sha, "commitUrl": f"{hub.url}/{unquote(match[2])}/commit/{sha}"})
    else:
        raise RefusedError(404, "", f"no page {path}")


def _paths(handler: Any, files: dict[str, bytes]) -> list[dict[str, Any]]:
    wish: dict[str, Any]
    if "json" in handler.headers.get("Content-Type", ""):
        wish = json.loads(handler.body)
        expand = bool(wish.get("expand"))
    else:
        wish = parse_qs(handler.body.decode())
        expand = wish.get("expand", ["false"])[0].lower() == "true"
    found = []
    for name in wish.get("paths", []):
        if name in files:
            found.append(_blob(name, files[name], expand))
        elif any(other.startswith(f"{name}/") for other in files):
            found.append(_folder(name, expand))
    return found


def _commit(hub: FakeHub, repo: Repo, revision: str, body: bytes) -> str:
    files = dict(repo.commits[repo.refs[revision]])
    for line in body.splitlines():
        operation = json.loads(line)
        value = operation["value"]
        if operation["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif operation["key"] == "lfsFile":
            files[value["path"]] = hub.blobs[value["oid"]]
        elif operation["key"] == "deletedFile":
            del files[value["path"]]
    return repo.commit(files, revision)


def _put(handler: Any, hub: FakeHub, path: str) -> None:
    """A large file is sent, to the host of large files."""
    oid = path.removeprefix("/")
    if hashlib.sha256(handler.body).hexdigest() != oid:
        raise RefusedError(400, "", "another file than announced")
    hub.blobs[oid] = handler.body
    handler.send(b"")
