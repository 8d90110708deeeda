# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""One commit to a repository of the Hub, made once or not at all however often requests fail.

`huggingface_hub` repeats the requests that may safely be repeated. The commit itself it sends once, for when its
answer is lost nobody knows whether it was made. Here it is looked up: a commit is there if the revision, or a pull
request of the same title, holds exactly the wanted files; if not, it is sent again, on top of the same parent.
"""

import hashlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from json import JSONDecodeError
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from ..errors import NotAnswered, SailvitError

T = TypeVar("T")

MAIN = "main"
TRIES = 10
LONGEST_WAIT = 30.0
STRANGER = "the Hub does not know you: log in with `hf auth login`, or set HF_TOKEN to a token that may write"
_PASSING = (408, 429, 500, 502, 503, 504)
# Errors of the connection. huggingface_hub 1.x has them from httpx, 2.x from its successor: both are this base.
_HTTP_ERROR: type[Exception] = next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")


@dataclass(frozen=True)
class Commit:
    """A commit that the Hub holds.

    Attributes:
        repo: full name of the repository.
        revision: where it is: a branch, or `refs/pr/<number>`.
        oid: its hash, to pin `revision=` with.
        new: false if the revision held these files already.
        pull_request: number of the pull request, if it is one.
        url: address of the commit or pull request.
    """

    repo: str
    revision: str
    oid: str
    new: bool
    pull_request: int | None
    url: str


@dataclass(frozen=True)
class Change:
    """What a commit does: these files are written, and what matches `replaces` and is not among them goes."""

    files: Mapping[str, Path]
    message: str
    replaces: Sequence[str] = ()

    def oids(self) -> dict[str, tuple[str, str]]:
        """Of every file its SHA-256, as LFS names it, and its git blob: the Hub chooses which it stores."""
        return {name: _oids(path) for name, path in self.files.items()}


def _oids(path: Path) -> tuple[str, str]:
    lfs, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            lfs.update(block)
            git.update(block)
    return lfs.hexdigest(), git.hexdigest()


def is_passing(error: BaseException) -> bool:
    """Whether an error may be gone on another try: too many requests, a server's error, a cut connection."""
    if isinstance(error, HfHubHTTPError):
        return error.response is not None and error.response.status_code in _PASSING
    if isinstance(error, RuntimeError) and error.__cause__ is not None:  # how an upload's error arrives
        return is_passing(error.__cause__)
    return isinstance(error, (_HTTP_ERROR, ConnectionError, TimeoutError, JSONDecodeError))


class Remote:
    """A repository of models on the Hub.

    Args:
        repo: `owner/name`, or a name alone for the own account's.
        token: instead of the one that `hf auth login` stored or `HF_TOKEN` holds.
        tries: how often the commit is sent at most.
        pause: waits for a number of seconds; the tests' takes none.
    """

    def __init__(
        self,
        repo: str,
        token: str | None = None,
        tries: int = TRIES,
        pause: Callable[[float], None] | None = None,
    ) -> None:
        self.api = HfApi(token=token, library_name="sailvit_hf")
        self.tries = tries
        self.pause = time.sleep if pause is None else pause
        self.made_repo = False
        self.repo = repo if "/" in repo else f"{self._me()}/{repo}"

    def _again(self, call: Callable[[], T]) -> T:
        """A call that changes nothing twice, repeated while its errors may pass."""
        tries = max(self.tries, TRIES)  # few tries are for the commit: what became of it must be found out
        for count in range(tries):
            try:
                return call()
            except Exception as error:
                if not is_passing(error) or count + 1 == tries:
                    raise
                self._wait(count, error)
        raise AssertionError("unreachable")

    def _wait(self, count: int, error: BaseException | None) -> None:
        asked = None
        if isinstance(error, HfHubHTTPError) and error.response is not None:
            asked = error.response.headers.get("Retry-After")
        seconds = min(LONGEST_WAIT, 2.0**count) * random.uniform(0.75, 1.25)
        self.pause(max(seconds, float(asked)) if asked and asked.isdigit() else seconds)

    def _me(self) -> str:
        try:
            return self._again(lambda: self.api.whoami())["name"]
        except (HfHubHTTPError, _HTTP_ERROR, OSError) as error:  # OSError: no token on this machine
            if is_passing(error):
                raise NotAnswered(f"the Hub did not answer ({describe(error)}): push again later") from error
            raise SailvitError(STRANGER) from error

    def info(self, revision: str | None = None) -> Any:
        """What the Hub says of the repository; None if it is not there, or not for these eyes."""
        try:
            return self._again(lambda: self.api.model_info(self.repo, revision=revision))
        except (RepositoryNotFoundError, RevisionNotFoundError):
            return None

    def prepare(self, private: bool) -> None:
        """Make the repository if there is none.

        Raises:
            SailvitError: it is there for all to see, and this push was to be private.
        """
        self._me()
        info = self.info()
        if info is None:
            self._again(lambda: self.api.create_repo(self.repo, private=private, exist_ok=True))
            self.made_repo = True
        elif private and info.private is False:
            raise SailvitError(f"{self.repo} is public: say --public if this push may be seen by everybody")

    def open(self, private: bool) -> None:
        """`prepare`, with every error a sentence.

        Raises:
            SailvitError: the repository cannot be had, or is public and was to be private.
        """
        try:
            self.prepare(private)
        except (HfHubHTTPError, _HTTP_ERROR, OSError, ValueError) as error:
            if isinstance(error, SailvitError):
                raise
            if is_passing(error):
                why = f"the Hub did not answer ({describe(error)})"
                raise NotAnswered(f"{self.repo} was not changed: {why}; see `hf auth whoami`") from error
            why = f"the Hub refused ({describe(error)})"
            raise SailvitError(f"{self.repo} was not changed: {why}; see `hf auth whoami`") from error

    def commit(self, change: Change, revision: str = MAIN, pull_request: bool = False) -> Commit:
        """Commit a change to a branch (made from `main` if need be), or as a pull request to it.

        Raises:
            SailvitError: it was not made, or somebody else's commit came between; the sentence says what holds now.
        """
        wanted = change.oids()
        sent = False
        try:
            made_branch = self._make_branch(revision)
            error: BaseException | None = None
            first = self.info(revision).sha
            for count in range(self.tries + 1):
                found = self._find(change, wanted, revision, pull_request, new=count > 0)
                head = self.info(revision).sha
                if found is not None or count == self.tries:
                    break
                if head != first and not pull_request:
                    error = None
                    break
                sent = True
                error = self._send(change, head, revision, pull_request)
                if error is not None:
                    if not _may_go_on(error):
                        found = self._find(change, wanted, revision, pull_request, new=True)
                        break
                    self._wait(count, error)
            if found is not None:
                return found
            if made_branch and head == first:  # not if it holds a commit of somebody else
                self._again(lambda: self.api.delete_branch(self.repo, branch=revision))
        except (HfHubHTTPError, _HTTP_ERROR, RuntimeError, OSError) as problem:
            if not is_passing(problem) and not sent:
                why = f"the Hub refused it ({describe(problem)})"
                raise SailvitError(f"{self.repo} was not changed: {why}") from problem
            doubt = "whether it was changed is not known; push again later, no second commit is made of the same files"
            known = doubt if sent else "it was not changed; push again later"
            raise NotAnswered(f"{self.repo}: the Hub went on failing ({describe(problem)}): {known}") from problem
        left = ", it is new and holds no file of this push" if self.made_repo else ""
        kind = NotAnswered if error is not None and is_passing(error) else SailvitError
        raise kind(f"{self.repo} was not changed{left}: {_reason(error)}") from error

    def _make_branch(self, revision: str) -> bool:
        made = revision != MAIN and self.info(revision) is None
        if made:
            self._again(lambda: self.api.create_branch(self.repo, branch=revision, exist_ok=True))
        return made

    def _send(self, change: Change, head: str, revision: str, pull_request: bool) -> BaseException | None:
        """Send the commit; what comes back is an error after which it may be there all the same."""
        gone = [path for path in self._tree(head) if path not in change.files and _matches(path, change.replaces)]
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            *(CommitOperationAdd(name, str(path)) for name, path in sorted(change.files.items())),
            *(CommitOperationDelete(path) for path in gone),
        ]
        title, _, text = change.message.partition("\n")
        try:
            self.api.create_commit(
                self.repo,
                operations,
                commit_message=title,
                commit_description=text.strip(),
                revision=revision,
                create_pr=pull_request,
                parent_commit=head,
            )
        except (HfHubHTTPError, _HTTP_ERROR, RuntimeError, OSError, ValueError) as error:
            return error
        return None

    def _tree(self, revision: str) -> dict[str, str]:
        entries = self._again(lambda: list(self.api.list_repo_tree(self.repo, recursive=True, revision=revision)))
        return {
            entry.path: entry.blob_id if entry.lfs is None else entry.lfs.sha256
            for entry in entries
            if isinstance(entry, RepoFile)
        }

    def _holds(self, change: Change, wanted: dict[str, tuple[str, str]], revision: str) -> bool:
        tree = self._tree(revision)
        stale = [path for path in tree if path not in wanted and _matches(path, change.replaces)]
        return not stale and all(tree.get(path) in oids for path, oids in wanted.items())

    def _find(
        self, change: Change, wanted: dict[str, tuple[str, str]], revision: str, pull_request: bool, new: bool
    ) -> Commit | None:
        """The commit, if it is there: on the branch itself, or as an open pull request."""
        endpoint = f"{self.api.endpoint}/{self.repo}"
        if self._holds(change, wanted, revision):
            oid = self.info(revision).sha
            return Commit(self.repo, revision, oid, new and not pull_request, None, f"{endpoint}/commit/{oid}")
        if not pull_request:
            return None
        title = change.message.partition("\n")[0]
        listed = self._again(lambda: list(self.api.get_repo_discussions(self.repo, discussion_type="pull_request")))
        for item in listed:
            if item.is_pull_request and item.title == title and item.status in ("open", "draft"):
                ref = f"refs/pr/{item.num}"
                if self._holds(change, wanted, ref):
                    return Commit(
                        self.repo, ref, self.info(ref).sha, new, item.num, f"{endpoint}/discussions/{item.num}"
                    )
        return None


def _may_go_on(error: BaseException) -> bool:
    """Whether to look and send again: the error may pass, or the parent is no longer the head."""
    response = error.response if isinstance(error, HfHubHTTPError) else None
    moved = response is not None and response.status_code in (409, 412)
    return moved or is_passing(error)


def _reason(error: BaseException | None) -> str:
    if error is None:
        return "somebody else's commit came between; look at it and push again"
    if is_passing(error):
        return f"the requests went on failing ({describe(error)}); push again later"
    return f"the Hub refused it ({describe(error)})"


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return "/" not in path and any(fnmatch(path, pattern) for pattern in patterns)


def describe(error: BaseException) -> str:
    """An error in a few words: what the server said, or the first line."""
    if isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    said = getattr(error, "server_message", None)
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        return f"{error.response.status_code} {said}" if said else f"status {error.response.status_code}"
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
