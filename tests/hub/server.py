# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""A Hub on loopback: as much of its HTTP API as `huggingface_hub` uses to push and pull models, with faults on demand.

```python
with HubServer(tokens={"token": "alice"}) as hub:
    api = HfApi(endpoint=hub.endpoint, token="token")
```

What it answers follows the requests of `huggingface_hub` 1.x and 2.x without Xet (`HF_HUB_DISABLE_XET=1`): files go up
through LFS, and large ones come down from a second port, as from the Hub's storage, where no token may be sent.
"""

import random
import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from .repos import Refusal, Repo
from .routes import ROUTES, Answer, Request, answer


@dataclass
class Faults:
    """Which requests fail, and how.

    Attributes:
        rate: share of the requests that fail.
        seed: of the draws.
        kinds: a status (`429`, `500`) is answered and nothing done; `unheard` cuts the connection while the request
            comes in; `cut` does what is asked and cuts the answer in its middle; `unsaid` does it and answers 500.
        only: pattern that method and path of a request must hold to fail.
        plan: kinds of the next requests in order (`""`: no fault), before any draw.
    """

    rate: float = 0.0
    seed: int = 0
    kinds: tuple[str, ...] = ("429", "500", "unheard", "cut", "unsaid")
    only: str = ""
    plan: Iterable[str] = ()

    def __post_init__(self) -> None:
        self.plan = list(self.plan)
        self.random = random.Random(self.seed)

    def draw(self, method: str, path: str) -> str:
        if not re.search(self.only, f"{method} {path}"):
            return ""
        if self.plan:
            return self.plan.pop(0)
        return self.random.choice(self.kinds) if self.random.random() < self.rate else ""


class HubServer:
    """The server; use it as a context.

    Attributes:
        endpoint: its address, for `HF_ENDPOINT` or `HfApi(endpoint=...)`.
        tokens: token -> user.
        repos: name -> repository.
        objects: SHA-256 -> content of the LFS objects, committed or not.
        log: method, path and status of every request, in order; a fault's kind instead of a status.
        faults: which requests fail.
        chunk_size: if set, larger LFS objects are asked for in parts of that size.
    """

    def __init__(self, tokens: dict[str, str] | None = None, chunk_size: int | None = None) -> None:
        self.tokens = dict(tokens or {})
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.log: list[tuple[str, str, int | str]] = []
        self.faults = Faults()
        self.chunk_size = chunk_size
        self.lock = threading.RLock()
        handler = type("Handler", (_Handler,), {"hub": self})
        # Reads of large files are redirected to another address than the API's, and so lose their token.
        self.servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
        hub, storage = (server.server_address[1] for server in self.servers)
        # Another name, too: clients before huggingface_hub 2 tell hosts apart by it, and send no token to another.
        self.endpoint, self.storage = f"http://127.0.0.1:{hub}", f"http://localhost:{storage}"

    def __enter__(self) -> "HubServer":
        for server in self.servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def state(self) -> dict[str, Any]:
        """Everything that somebody who reads the repositories can see."""
        return {
            name: {
                "refs": {ref: {path: blob.sha256 for path, blob in repo.files(ref).items()} for ref in repo.refs},
                "private": repo.private,
            }
            for name, repo in self.repos.items()
        }

    def requests(self, pattern: str) -> list[tuple[str, str, int | str]]:
        """The requests whose method and path hold a pattern."""
        return [entry for entry in self.log if re.search(pattern, f"{entry[0]} {entry[1]}")]

    def answer(self, request: Request) -> Answer:
        for method, pattern, function in ROUTES:
            found = pattern.match(request.path)
            if found and method == ("GET" if request.method == "HEAD" else request.method):
                arguments = {name: unquote(value or "") for name, value in found.groupdict().items()}
                try:
                    with self.lock:
                        return function(request, **arguments)
                except Refusal as refusal:
                    told = {"X-Error-Message": refusal.message}
                    if refusal.code:
                        told["X-Error-Code"] = refusal.code
                    return answer({"error": refusal.message}, refusal.status, **told)
        return answer({"error": f"this server does not know {request.method} {request.path}"}, 501)


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    timeout = 10
    disable_nagle_algorithm = True  # heads and bodies are written apart, which would cost 40 ms a request

    def log_message(self, *args: Any) -> None:
        pass

    def _handle(self) -> None:
        parts = urlsplit(self.path)
        # The real Hub takes `refs/pr/1` in a path as one revision too, quoted or not.
        path = re.sub(r"/refs/(pr|heads|tags)/", lambda m: f"/refs%2F{m[1]}%2F", parts.path)
        path = path.replace("refs%252F", "refs%2F")
        # Data sets are repositories like others here, in one space of names with the models.
        path = re.sub(r"^/(api/)?datasets/", lambda m: "/api/models/" if m[1] else "/", path)
        with self.hub.lock:
            fault = self.hub.faults.draw(self.command, path)
        length = int(self.headers.get("Content-Length") or 0)
        if fault == "unheard":
            self.rfile.read(length // 2)
            return self._cut(path, fault)
        body = self._chunked() if self.headers.get("Transfer-Encoding") == "chunked" else self.rfile.read(length)
        if fault.isdigit():
            return self._send(answer({"error": "try again"}, int(fault)), path, fault)
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        found = self.hub.answer(Request(self.hub, self.command, path, query, self.headers, body))
        if fault == "unsaid":
            found = answer({"error": "something went wrong"}, 500)
        self._send(found, path, fault or found.status, cut=fault == "cut")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle

    def _chunked(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _cut(self, path: str, fault: str) -> None:
        self.hub.log.append((self.command, path, fault))
        self.close_connection = True

    def _send(self, found: Answer, path: str, status: int | str, cut: bool = False) -> None:
        self.hub.log.append((self.command, path, status))
        if cut and (self.command == "HEAD" or not found.body):
            self.close_connection = True
            return
        self.send_response(found.status)
        for name, value in {"Content-Length": str(len(found.body)), **found.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(found.body[: len(found.body) // 2] if cut else found.body)
        if cut:
            self.close_connection = True



def point_client_at(server: HubServer, monkeypatch: Any, cache: Any) -> None:
    """Let the client of this process, which the test session started offline, speak with the server and no other."""
    import time

    from huggingface_hub import constants
    from huggingface_hub.utils import _http, close_session
    from transformers.utils import hub as transformers_hub

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
    template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(transformers_hub, "_hf_api", None, raising=False)
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda seconds: None, time=time.time))
    for name in ("HF_HUB_OFFLINE", "HF_ENDPOINT", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    close_session()


def client_environment(server: HubServer, home: Any, token: str | None = None) -> dict[str, str]:
    """The environment in which another process speaks with the server."""
    import os

    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    named = {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    return {**kept, **named, **({"HF_TOKEN": token} if token else {})}
