# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What the Hub on loopback answers to each request; see `server.py`."""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from .repos import DATE, START, Discussion, Refusal, Repo, upload_mode

if TYPE_CHECKING:
    from .server import HubServer

ROUTES: list[tuple[str, re.Pattern, Callable]] = []
MODEL = r"/api/models/(?P<repo>[^/]+/[^/]+)"


def route(method: str, pattern: str) -> Callable[[Callable], Callable]:
    """Let a function answer a method and a path; the named groups become arguments."""

    def keep(function: Callable) -> Callable:
        ROUTES.append((method, re.compile(pattern + r"\Z"), function))
        return function

    return keep


@dataclass(frozen=True)
class Request:
    """A request and who sent it."""

    hub: "HubServer"
    method: str
    path: str
    query: dict[str, str]
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body) if self.body else {}

    @property
    def token(self) -> str | None:
        kind, _, value = (self.headers.get("Authorization") or "").partition(" ")
        return value if kind == "Bearer" else None

    @property
    def user(self) -> str | None:
        if self.token is not None and self.token not in self.hub.tokens:
            raise Refusal(401, "", "Invalid credentials in Authorization header")
        return self.hub.tokens.get(self.token) if self.token else None

    def repo(self, name: str, write: bool = False) -> Repo:
        """The repository, if this user may read (or write) it; of a private one others do not learn that it is."""
        found = self.hub.repos.get(name)
        owner = name.split("/")[0]
        if found is None or (found.private and self.user != owner):
            raise Refusal(404 if self.user else 401, "RepoNotFound", "Repository not found")
        if write and self.user != owner:
            raise Refusal(403 if self.user else 401, "", f"you have no right to write to {name}")
        return found


@dataclass
class Answer:
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def answer(value: Any, status: int = 200, **headers: str) -> Answer:
    return Answer(json.dumps(value).encode(), status, {"Content-Type": "application/json", **headers})

# Users and repositories


@route("GET", "/api/whoami-v2")
def whoami(request: Request) -> Answer:
    if request.user is None:
        raise Refusal(401, "", "Invalid username or password.")
    return answer({"type": "user", "name": request.user, "orgs": [], "auth": {"type": "access_token"}})


@route("POST", "/api/repos/create")
def create_repo(request: Request) -> Answer:
    if request.user is None:
        raise Refusal(401, "", "Invalid username or password.")
    owner = request.json.get("organization") or request.user
    name = f"{owner}/{request.json['name']}"
    if owner != request.user:
        raise Refusal(403, "", f"You don't have the rights to create a model under the namespace {owner!r}")
    if name in request.hub.repos:
        conflict = {"error": "You already created this model repo", "url": f"{request.hub.endpoint}/{name}"}
        return answer(conflict, 409)
    private = request.json.get("private") or request.json.get("visibility") == "private"
    request.hub.repos[name] = Repo(name, bool(private))
    return answer({"url": f"{request.hub.endpoint}/{name}", "name": name, "id": name})


@route("DELETE", "/api/repos/delete")
def delete_repo(request: Request) -> Answer:
    name = f"{request.json.get('organization') or request.user}/{request.json['name']}"
    request.repo(name, write=True)
    del request.hub.repos[name]
    return answer({})


@route("POST", "/api/validate-yaml")
def validate_yaml(request: Request) -> Answer:
    import yaml

    text = request.json["content"]
    block = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    if block is None:
        return answer({"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})
    try:
        yaml.safe_load(block[1])
    except yaml.YAMLError as error:
        return answer({"errors": [{"message": str(error)}], "warnings": []}, 400)
    return answer({"errors": [], "warnings": []})


@route("GET", MODEL + r"(/revision/(?P<revision>[^/]+))?")
def model_info(request: Request, repo: str, revision: str) -> Answer:
    found = request.repo(repo)
    files = found.files(revision or "main")
    siblings = [{"rfilename": path, "size": len(files[path].content), "blobId": files[path].oid} for path in files]
    return answer(
        {
            "id": repo,
            "modelId": repo,
            "author": repo.split("/")[0],
            "sha": found.resolve(revision or "main"),
            "private": found.private,
            "gated": False,
            "disabled": False,
            "tags": [],
            "lastModified": DATE,
            "createdAt": DATE,
            "siblings": siblings,
        }
    )


@route("GET", MODEL + r"/auth-check")
def auth_check(request: Request, repo: str) -> Answer:
    request.repo(repo)
    return answer({})


@route("GET", MODEL + r"/tree/(?P<revision>[^/]+)(/(?P<folder>.*))?")
def tree(request: Request, repo: str, revision: str, folder: str) -> Answer:
    files = request.repo(repo).files(revision)
    prefix = f"{folder}/" if folder else ""
    entries, folders = [], set()
    for path, blob in sorted(files.items()):
        if not path.startswith(prefix):
            continue
        parents = path[len(prefix) :].split("/")[:-1]
        if parents and request.query.get("recursive") not in ("true", "True", "1"):
            folders.add(prefix + parents[0])
            continue
        folders.update(prefix + "/".join(parents[: depth + 1]) for depth in range(len(parents)))
        entries.append(blob.entry(path))
    if folder and not entries and not folders:
        raise Refusal(404, "EntryNotFound", f"{folder} does not exist")
    listed = [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)]
    return answer([*listed, *entries], **{"X-Repo-Commit": request.repo(repo).resolve(revision)})


@route("POST", MODEL + r"/paths-info/(?P<revision>[^/]+)")
def paths_info(request: Request, repo: str, revision: str) -> Answer:
    files = request.repo(repo).files(revision)
    sent = request.json if request.headers.get("Content-Type", "").startswith("application/json") else None
    paths = sent["paths"] if sent else parse_qs(request.body.decode()).get("paths", [])
    return answer([files[path].entry(path) for path in paths if path in files])


@route("GET", MODEL + r"/commits/(?P<revision>[^/]+)")
def commits(request: Request, repo: str, revision: str) -> Answer:
    found = request.repo(repo)
    listed = []
    for oid in found.history(found.resolve(revision)):
        commit = found.commits[oid]
        listed.append(
            {
                "id": oid,
                "title": commit.title,
                "message": commit.description,
                "date": DATE,
                "authors": [{"user": commit.author}],
            }
        )
    return answer(listed, **{"X-Total-Count": str(len(listed))})


@route("GET", MODEL + r"/refs")
def refs(request: Request, repo: str) -> Answer:
    kinds: dict[str, list] = {"heads": [], "tags": [], "pr": []}
    for ref, oid in request.repo(repo).refs.items():
        _, kind, name = ref.split("/", 2)
        kinds[kind].append({"name": name, "ref": ref, "targetCommit": oid})
    named = {"branches": kinds["heads"], "tags": kinds["tags"], "converts": []}
    return answer({**named, **({"pullRequests": kinds["pr"]} if "include_prs" in request.query else {})})


@route("POST", MODEL + r"/(?P<kind>branch|tag)/(?P<name>[^/]+)")
def create_ref(request: Request, repo: str, kind: str, name: str) -> Answer:
    found = request.repo(repo, write=True)
    ref = f"refs/heads/{name}" if kind == "branch" else f"refs/tags/{request.json['tag']}"
    if ref in found.refs:
        raise Refusal(409, "", f"Reference already exists: {ref}")
    found.refs[ref] = found.resolve(request.json.get("startingPoint", "main") if kind == "branch" else name)
    return answer({})


@route("DELETE", MODEL + r"/(?P<kind>branch|tag)/(?P<name>[^/]+)")
def delete_ref(request: Request, repo: str, kind: str, name: str) -> Answer:
    found = request.repo(repo, write=True)
    if found.refs.pop(f"refs/{'heads' if kind == 'branch' else 'tags'}/{name}", None) is None:
        raise Refusal(404, "RevisionNotFound", f"{name} does not exist")
    return answer({})


# Commits and their large files


def _may_commit(request: Request, repo: str) -> Repo:
    """Whoever can read a repository may open a pull request."""
    found = request.repo(repo, write="create_pr" not in request.query)
    if request.user is None:
        raise Refusal(401, "", "log in to open a pull request")
    return found


@route("POST", MODEL + r"/preupload/(?P<revision>[^/]+)")
def preupload(request: Request, repo: str, revision: str) -> Answer:
    files = _may_commit(request, repo).files(revision)
    told = [
        {
            "path": file["path"],
            "uploadMode": upload_mode(file["path"], file["size"]),
            "shouldIgnore": False,
            "oid": files[file["path"]].etag if file["path"] in files else None,
        }
        for file in request.json["files"]
    ]
    return answer({"files": told})


@route("POST", MODEL + r"/commit/(?P<revision>[^/]+)")
def commit(request: Request, repo: str, revision: str) -> Answer:
    found = _may_commit(request, repo)
    lines = [json.loads(line) for line in request.body.splitlines()]
    made = found.commit(revision, str(request.user), lines, request.hub.objects, "create_pr" in request.query)
    url = f"{request.hub.endpoint}/{repo}/commit/{made['oid']}"
    told = {"success": True, "commitOid": made["oid"], "commitUrl": url}
    if made["discussion"] is not None:
        told["pullRequestUrl"] = f"{request.hub.endpoint}/{repo}/discussions/{made['discussion'].num}"
    return answer(told)


@route("POST", r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch")
def lfs_batch(request: Request, repo: str) -> Answer:
    request.repo(repo)
    if request.user is None:
        raise Refusal(401, "", "log in to upload")
    objects, hub = [], request.hub
    for wanted in request.json["objects"]:
        oid, size = wanted["oid"], wanted["size"]
        entry: dict[str, Any] = {"oid": oid, "size": size}
        if oid not in hub.objects:
            upload: dict[str, Any] = {"href": f"{hub.storage}/upload/{oid}"}
            if hub.chunk_size is not None and size > hub.chunk_size:
                parts = range(1, -(-size // hub.chunk_size) + 1)
                header = {str(part): f"{hub.storage}/upload/{oid}?part={part}" for part in parts}
                header["chunk_size"] = str(hub.chunk_size)
                upload = {"href": f"{hub.endpoint}/complete/{oid}", "header": header}
            entry["actions"] = {"upload": upload, "verify": {"href": f"{hub.endpoint}/verify/{repo}/{oid}"}}
        objects.append(entry)
    return answer({"transfer": request.json["transfers"][0], "objects": objects})


@route("PUT", r"/upload/(?P<oid>[0-9a-f]{64})")
def upload(request: Request, oid: str) -> Answer:
    if request.token is not None:
        raise Refusal(400, "", "a token was sent to the storage")
    if "part" in request.query:
        request.hub.parts.setdefault(oid, {})[int(request.query["part"])] = request.body
    elif hashlib.sha256(request.body).hexdigest() != oid:
        raise Refusal(400, "", "BadDigest")
    else:
        request.hub.objects[oid] = request.body
    return Answer(headers={"ETag": f'"{hashlib.md5(request.body).hexdigest()}"'})


@route("POST", r"/complete/(?P<oid>[0-9a-f]{64})")
def complete(request: Request, oid: str) -> Answer:
    parts = request.hub.parts.get(oid, {})
    content = b"".join(parts[part["partNumber"]] for part in request.json["parts"])
    if hashlib.sha256(content).hexdigest() != oid:
        raise Refusal(400, "", "BadDigest")
    request.hub.objects[oid] = content
    return answer({})


@route("POST", r"/verify/(?P<repo>[^/]+/[^/]+)/(?P<oid>[0-9a-f]{64})")
def verify(request: Request, repo: str, oid: str) -> Answer:
    if len(request.hub.objects.get(oid, b"")) != request.json["size"]:
        raise Refusal(400, "", "the object is not as announced")
    return answer({})


# Discussions and pull requests


def _discussion(repo: Repo, item: Discussion) -> dict[str, Any]:
    return {
        "num": item.num,
        "title": item.title,
        "author": {"name": item.author},
        "createdAt": DATE,
        "status": item.status,
        "isPullRequest": item.pull_request,
        "repo": {"name": repo.name, "type": "model"},
    }


@route("GET", MODEL + r"/discussions")
def discussions(request: Request, repo: str) -> Answer:
    found = request.repo(repo)
    wanted = request.query.get("type") in (None, "all", "pull_request")
    listed = [_discussion(found, item) for item in found.discussions if wanted or not item.pull_request]
    listed = [item for item in reversed(listed) if request.query.get("author") in (None, item["author"]["name"])]
    start = int(request.query.get("p", 0)) * 10
    return answer({"discussions": listed[start : start + 10], "count": len(listed), "start": start})


@route("POST", MODEL + r"/discussions")
def create_discussion(request: Request, repo: str) -> Answer:
    found, sent = request.repo(repo), request.json
    item = found.discuss(sent["title"], sent["description"], str(request.user), sent["pullRequest"])
    return answer({"num": item.num})


@route("GET", MODEL + r"/discussions/(?P<num>\d+)")
def discussion(request: Request, repo: str, num: str) -> Answer:
    found = request.repo(repo)
    if int(num) > len(found.discussions):
        raise Refusal(404, "", "there is no such discussion")
    item = found.discussions[int(num) - 1]
    comment = {"edited": False, "hidden": False, "latest": {"raw": item.description}}
    events = [{"id": "1", "type": "comment", "createdAt": DATE, "author": {"name": item.author}, "data": comment}]
    changes = {"base": START, **({"mergeCommitId": item.merged_as} if item.merged_as else {})}
    details = {"changes": changes, "filesWithConflicts": [], "events": events}
    return answer({**_discussion(found, item), **details})


@route("POST", MODEL + r"/discussions/(?P<num>\d+)/merge")
def merge(request: Request, repo: str, num: str) -> Answer:
    request.repo(repo, write=True).merge(int(num), str(request.user))
    return answer({})


# Reading


@route("GET", r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
def resolve(request: Request, repo: str, revision: str, path: str) -> Answer:
    found = request.repo(repo)
    commit = {"X-Repo-Commit": found.resolve(revision)}
    try:
        blob = found.file(revision, path)
    except Refusal as refusal:
        told = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message, **commit}
        return answer({"error": refusal.message}, refusal.status, **told)
    if not blob.lfs:
        return _content(request, blob.content, {"ETag": f'"{blob.oid}"', **commit})
    linked = {"X-Linked-ETag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.content)), **commit}
    return Answer(b"", 302, {"Location": f"{request.hub.storage}/objects/{blob.sha256}", **linked})


@route("GET", r"/objects/(?P<oid>[0-9a-f]{64})")
def stored_object(request: Request, oid: str) -> Answer:
    if request.token is not None:
        raise Refusal(400, "", "a token was sent to the storage")
    return _content(request, request.hub.objects[oid], {"ETag": f'"{oid}"'})


def _content(request: Request, content: bytes, headers: dict[str, str]) -> Answer:
    """A file, or the range of it that is asked for."""
    if request.headers.get("If-None-Match") == headers["ETag"]:
        return Answer(b"", 304, headers)
    headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}
    wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range") or "")
    if wanted is None:
        return Answer(content, 200, headers)
    size = len(content)
    first = int(wanted[1]) if wanted[1] else max(0, size - int(wanted[2]))
    last = min(int(wanted[2]), size - 1) if wanted[1] and wanted[2] else size - 1
    if first > last:
        return Answer(b"", 416, {**headers, "Content-Range": f"bytes */{size}"})
    return Answer(content[first : last + 1], 206, {**headers, "Content-Range": f"bytes {first}-{last}/{size}"})
