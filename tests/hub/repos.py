# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Repositories in memory, as the Hub keeps them: files, commits, branches, tags and pull requests."""

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

START = "refs/heads/main"
ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n*.png filter=lfs diff=lfs merge=lfs -text\n"
DATE = "2026-01-01T00:00:00.000Z"
LARGE_ENDINGS = (".safetensors", ".png", ".bin", ".pt", ".pth", ".pkl")
LARGE_SIZE = 10 << 20  # the Hub stores larger files with LFS, whatever they are called


class Refusal(Exception):
    """What the Hub answers instead of doing it: status, its code and its sentence."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@dataclass(frozen=True)
class Blob:
    """A file's content; `lfs` if the repository holds only a pointer to it."""

    content: bytes
    lfs: bool = False

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        return (
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        ).encode()

    @cached_property
    def oid(self) -> str:
        """The git blob of what lies in the repository: the content, or the pointer."""
        stored = self.pointer if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid

    def entry(self, path: str) -> dict[str, Any]:
        """The line of a listing."""
        entry: dict[str, Any] = {"type": "file", "path": path, "oid": self.oid, "size": len(self.content)}
        if self.lfs:
            entry["lfs"] = {"oid": self.sha256, "size": len(self.content), "pointerSize": len(self.pointer)}
        return entry


@dataclass(frozen=True)
class Commit:
    files: dict[str, Blob]
    parent: str | None
    title: str
    description: str = ""
    author: str = "alice"
    number: int = 0

    @cached_property
    def oid(self) -> str:
        digest = hashlib.sha1(f"{self.parent}\0{self.title}\0{self.description}\0{self.number}".encode())
        for path, blob in sorted(self.files.items()):
            digest.update(f"{path}\0{blob.oid}\0".encode())
        return digest.hexdigest()


@dataclass
class Discussion:
    num: int
    title: str
    description: str
    author: str
    pull_request: bool = True
    status: str = "draft"
    merged_as: str | None = None

    @property
    def ref(self) -> str:
        return f"refs/pr/{self.num}"


@dataclass
class Repo:
    """One repository."""

    name: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    discussions: list[Discussion] = field(default_factory=list)
    counter: Any = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.refs[START] = self.add(Commit({".gitattributes": Blob(ATTRIBUTES)}, None, "initial commit"))

    def add(self, commit: Commit) -> str:
        self.commits[commit.oid] = commit
        return commit.oid

    def ref(self, revision: str) -> str | None:
        """The full name of a branch, tag or pull request."""
        for name in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
            if name in self.refs:
                return name
        return None

    def resolve(self, revision: str) -> str:
        """The commit that a revision names; a commit may be cut short, as in git."""
        ref = self.ref(revision)
        if ref is not None:
            return self.refs[ref]
        found = [oid for oid in self.commits if len(revision) >= 7 and oid.startswith(revision)]
        if len(found) != 1:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found[0]

    def history(self, oid: str | None) -> Iterator[str]:
        """A commit and those before it, newest first."""
        while oid is not None:
            yield oid
            oid = self.commits[oid].parent

    def files(self, revision: str = "main") -> dict[str, Blob]:
        return self.commits[self.resolve(revision)].files

    def file(self, revision: str, path: str) -> Blob:
        files = self.files(revision)
        if path not in files:
            raise Refusal(404, "EntryNotFound", "Entry not found")
        return files[path]

    def commit(self, revision: str, author: str, lines: list[dict], objects: dict[str, bytes], as_pr: bool) -> dict:
        """Apply the lines of a commit request, all or nothing."""
        header = next(line["value"] for line in lines if line["key"] == "header")
        parent, expected = self.resolve(revision), header.get("parentCommit")
        if as_pr and expected:
            parent = self.resolve(expected)
        elif expected and expected != parent:
            raise Refusal(412, "PreconditionFailed", "A commit has happened since. Please refresh and try again.")
        files = changed(self.commits[parent].files, lines, objects)
        summary, description = header["summary"], header.get("description", "")
        oid = self.add(Commit(files, parent, summary, description, author, next(self.counter)))
        discussion = None
        if as_pr:
            discussion = self.discuss(summary, description, author, pull_request=True)
            discussion.status = "open"
            ref = discussion.ref
        else:
            ref = self.ref(revision) or ""
            if not ref or ref.startswith("refs/tags/"):
                raise Refusal(400, "BadRequest", f"{revision} is no branch")
        self.refs[ref] = oid
        return {"oid": oid, "discussion": discussion}

    def discuss(self, title: str, description: str, author: str, pull_request: bool) -> Discussion:
        new = Discussion(len(self.discussions) + 1, title, description, author, pull_request)
        self.discussions.append(new)
        if pull_request:
            self.refs[new.ref] = self.refs[START]
        else:
            new.status = "open"
        return new

    def merge(self, num: int, author: str) -> None:
        discussion = self.discussions[num - 1]
        if discussion.status not in ("open", "draft"):
            raise Refusal(400, "BadRequest", f"The pull request is {discussion.status}")
        head, base = self.commits[self.refs[discussion.ref]], self.refs[START]
        old = self.commits[next(oid for oid in self.history(head.oid) if oid in set(self.history(base)))].files
        files = {path: blob for path, blob in self.files().items() if path in head.files or path not in old}
        files.update({path: blob for path, blob in head.files.items() if old.get(path) != blob})
        merged = Commit(files, base, f"{head.title} (#{num})", head.description, author, next(self.counter))
        self.refs[START] = self.add(merged)
        discussion.status, discussion.merged_as = "merged", merged.oid


def changed(files: dict[str, Blob], lines: list[dict], objects: dict[str, bytes]) -> dict[str, Blob]:
    """The files after the operations of a commit; nothing is changed in place."""
    import base64

    files = dict(files)
    for line in lines:
        key, value = line["key"], line["value"]
        if key == "file":
            files[value["path"]] = Blob(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            if value["oid"] not in objects:
                raise Refusal(400, "BadRequest", f"LFS pointer pointed to a file that does not exist: {value['path']}")
            files[value["path"]] = Blob(objects[value["oid"]], lfs=True)
        elif key == "deletedFile":
            if files.pop(value["path"], None) is None:
                raise Refusal(404, "EntryNotFound", f"A file with this name doesn't exist: {value['path']}")
        elif key == "deletedFolder":
            folder = value["path"].rstrip("/") + "/"
            files = {path: blob for path, blob in files.items() if not path.startswith(folder)}
    return files


def upload_mode(path: str, size: int) -> str:
    """Whether the Hub wants a file as an LFS object."""
    return "lfs" if size and (path.endswith(LARGE_ENDINGS) or size > LARGE_SIZE) else "regular"
