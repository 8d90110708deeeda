# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The loopback Hub against the real client: push, pull, branches, pull requests, private repositories, faults."""

import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    snapshot_download,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import get_session
from transformers import AutoModel
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # needs no torchvision there

from sailvit_hf import SAILViTConfig, SAILViTImageProcessorPil, SAILViTModel

from ..modeling.twins import randomised
from .conftest import TOKENS
from .server import Faults, HubServer, client_environment

ALICE, BOB = TOKENS
NAME = "alice/model"


def add(path: str, content: bytes) -> CommitOperationAdd:
    return CommitOperationAdd(path, content)


@pytest.fixture
def api(hub: HubServer) -> HfApi:
    api = HfApi()
    api.create_repo(NAME, private=True)
    return api


def commit(api: HfApi, files: dict[str, bytes], **options):
    operations = [add(path, content) for path, content in files.items()]
    return api.create_commit(NAME, operations, commit_message="add files", **options)


def test_who(hub: HubServer) -> None:
    assert HfApi().whoami()["name"] == "alice" and HfApi(token=BOB).whoami()["name"] == "bob"
    with pytest.raises(HfHubHTTPError, match="Invalid"):
        HfApi(token="hf_nobody").whoami()


def test_a_repository_is_made_once(hub: HubServer, api: HfApi) -> None:
    assert api.create_repo("model", private=True, exist_ok=True).repo_id == NAME
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo(NAME)
    with pytest.raises(HfHubHTTPError, match="403"):
        api.create_repo("bob/model")
    info = api.model_info(NAME)
    assert info.private and info.sha == hub.repos[NAME].resolve("main")
    assert [sibling.rfilename for sibling in info.siblings] == [".gitattributes"]


def test_files_come_back_as_they_went(hub: HubServer, api: HfApi) -> None:
    weights = bytes(range(256)) * 40
    files = {"config.json": b"{}", "model.safetensors": weights, "deep/down/a.txt": b"text", "empty": b""}
    made = commit(api, files)
    assert made.oid == api.model_info(NAME).sha
    listed = {entry.path: entry for entry in api.list_repo_tree(NAME, recursive=True) if hasattr(entry, "size")}
    assert listed["model.safetensors"].lfs.size == 10240 and listed["config.json"].lfs is None
    for path, content in files.items():
        fetched = Path(hf_hub_download(NAME, path))
        assert fetched.read_bytes() == content
        assert fetched.parts[fetched.parts.index("snapshots") + 1] == made.oid
    folder = Path(snapshot_download(NAME, revision=made.oid[:12]))
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == {*files, ".gitattributes"}
    assert [entry.path for entry in api.list_repo_tree(NAME, "deep")] == ["deep/down"]
    assert [entry.path for entry in api.get_paths_info(NAME, ["config.json", "nothing"])] == ["config.json"]
    # The token went to the API only, the storage answers 400 to one.
    assert hub.requests("GET /objects/") and not [entry for entry in hub.log if entry[2] == 400]


def test_metadata_and_ranges(hub: HubServer, api: HfApi) -> None:
    content = bytes(range(200))
    made = commit(api, {"model.safetensors": content, "config.json": b"0123456789"})
    blobs = hub.repos[NAME].files()
    large = get_hf_file_metadata(hf_hub_url(NAME, "model.safetensors"))
    assert (large.commit_hash, large.etag, large.size) == (made.oid, blobs["model.safetensors"].sha256, 200)
    assert large.location.startswith(hub.storage)
    small = get_hf_file_metadata(hf_hub_url(NAME, "config.json"))
    assert (small.commit_hash, small.etag, small.size) == (made.oid, blobs["config.json"].oid, 10)
    for asked, status, got in [("bytes=2-4", 206, b"234"), ("bytes=7-", 206, b"789"), ("bytes=-2", 206, b"89")]:
        headers = {"Range": asked, "Authorization": f"Bearer {ALICE}"}
        found = get_session().get(hf_hub_url(NAME, "config.json"), headers=headers)
        assert (found.status_code, found.content) == (status, got)
    headers = {"Range": "bytes=10-", "Authorization": f"Bearer {ALICE}"}
    assert get_session().get(hf_hub_url(NAME, "config.json"), headers=headers).status_code == 416


def test_what_is_not_there(hub: HubServer, api: HfApi) -> None:
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(NAME, "nothing")
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download(NAME, "config.json", revision="nowhere")
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("alice/nothing")
    assert not api.repo_exists("alice/nothing") and api.repo_exists(NAME)


def test_a_private_repository_is_its_owners(hub: HubServer, api: HfApi) -> None:
    commit(api, {"config.json": b"{}"})
    for token in (BOB, False):
        with pytest.raises(RepositoryNotFoundError):
            HfApi(token=token).model_info(NAME)
        with pytest.raises(RepositoryNotFoundError):
            hf_hub_download(NAME, "config.json", token=token)
    hub.repos[NAME].private = False
    assert HfApi(token=False).model_info(NAME).private is False
    with pytest.raises(HfHubHTTPError, match="403"):
        HfApi(token=BOB).create_commit(NAME, [add("a", b"b")], commit_message="mine now")


def test_branches_and_tags(api: HfApi) -> None:
    first = commit(api, {"a": b"1"})
    api.create_branch(NAME, branch="next")
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_branch(NAME, branch="next")
    second = commit(api, {"a": b"2"}, revision="next")
    api.create_tag(NAME, tag="v1", revision="next")
    refs = api.list_repo_refs(NAME)
    assert {ref.name: ref.target_commit for ref in refs.branches} == {"main": first.oid, "next": second.oid}
    assert {ref.name: ref.target_commit for ref in refs.tags} == {"v1": second.oid}
    assert Path(hf_hub_download(NAME, "a", revision="v1")).read_bytes() == b"2"
    assert Path(hf_hub_download(NAME, "a")).read_bytes() == b"1"
    titles = [entry.title for entry in api.list_repo_commits(NAME, revision="next")]
    assert titles == ["add files", "add files", "initial commit"]
    api.delete_branch(NAME, branch="next")
    assert [ref.name for ref in api.list_repo_refs(NAME).branches] == ["main"]


def test_a_commit_is_all_or_nothing(hub: HubServer, api: HfApi) -> None:
    first = commit(api, {"a": b"1"})
    before = hub.state()
    with pytest.raises(EntryNotFoundError):
        api.create_commit(NAME, [add("b", b"2"), CommitOperationDelete("nothing")], commit_message="half")
    assert hub.state() == before
    commit(api, {"c": b"3"})
    with pytest.raises(HfHubHTTPError, match="412"):
        commit(api, {"a": b"4"}, parent_commit=first.oid)


def test_pull_requests(hub: HubServer, api: HfApi) -> None:
    commit(api, {"a": b"1", "old": b"0"})
    operations = [add("a", b"2"), add("w.safetensors", b"weights"), CommitOperationDelete("old")]
    made = api.create_commit(NAME, operations, commit_message="mine", create_pr=True)
    assert made.pr_num == 1 and made.pr_revision == "refs/pr/1"
    assert Path(hf_hub_download(NAME, "a", revision="refs/pr/1")).read_bytes() == b"2"
    assert Path(hf_hub_download(NAME, "a")).read_bytes() == b"1"
    (listed,) = api.get_repo_discussions(NAME, discussion_type="pull_request")
    assert (listed.num, listed.title, listed.status, listed.author) == (1, "mine", "open", "alice")
    commit(api, {"b": b"more"}, revision="refs/pr/1")
    commit(api, {"c": b"meanwhile"})
    api.merge_pull_request(NAME, 1)
    assert set(hub.repos[NAME].files()) == {".gitattributes", "a", "b", "c", "w.safetensors"}
    details = api.get_discussion_details(NAME, 1)
    assert details.status == "merged" and details.merge_commit_oid == api.model_info(NAME).sha


def test_large_objects_in_parts(hub: HubServer, api: HfApi) -> None:
    hub.chunk_size = 1000
    content = bytes(range(250)) * 13
    commit(api, {"model.safetensors": content})
    assert len(hub.requests("PUT /upload/")) == 4
    assert Path(hf_hub_download(NAME, "model.safetensors")).read_bytes() == content
    commit(api, {"again.safetensors": content})
    assert len(hub.requests("PUT /upload/")) == 4  # what is there is not sent again


def test_what_did_not_change_is_not_sent(hub: HubServer, api: HfApi) -> None:
    first = commit(api, {"a": b"1", "w.safetensors": b"weights"})
    assert commit(api, {"a": b"1", "w.safetensors": b"weights"}).oid == first.oid
    assert len(hub.requests("POST .*/commit/")) == 1


OLD = pytest.mark.skipif(
    huggingface_hub.__version__.startswith("1."), reason="huggingface_hub 1.x gives up when a connection is cut"
)


@pytest.mark.parametrize(
    "kind", ["429", "500", pytest.param("unheard", marks=OLD), pytest.param("cut", marks=OLD), "unsaid"]
)
def test_the_client_goes_on_after_a_fault(hub: HubServer, api: HfApi, kind: str) -> None:
    hub.faults = Faults(plan=[kind], only="PUT /upload/")
    commit(api, {"w.safetensors": b"weights" * 100})
    assert [entry[2] for entry in hub.requests("PUT /upload/")] == [kind, 200]
    assert hub.repos[NAME].file("main", "w.safetensors").content == b"weights" * 100


@OLD
def test_a_cut_download_goes_on_where_it_stopped(hub: HubServer, api: HfApi, monkeypatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    content = bytes(range(250)) * 100
    commit(api, {"w.safetensors": content})
    hub.faults = Faults(plan=["cut"], only="GET /objects/")
    assert Path(hf_hub_download(NAME, "w.safetensors")).read_bytes() == content
    assert [entry[2] for entry in hub.requests("GET /objects/")] == ["cut", 206]


@pytest.mark.parametrize(("kind", "done"), [("500", False), ("unheard", False), ("cut", True), ("unsaid", True)])
def test_a_commit_whose_answer_is_lost_may_be_done(hub: HubServer, api: HfApi, kind: str, done: bool) -> None:
    hub.faults = Faults(plan=[kind], only="POST .*/commit/")
    with pytest.raises(Exception, match="500|disconnected|peer closed|incomplete"):
        commit(api, {"a": b"1"})
    assert ("a" in hub.repos[NAME].files()) is done


def encoder() -> SAILViTModel:
    return randomised(SAILViTConfig.preset("tiny", num_hidden_layers=2))


def test_push_to_hub_and_from_pretrained(hub: HubServer) -> None:
    model = encoder()
    model.push_to_hub(NAME, private=True)
    SAILViTImageProcessorPil(size={"height": 64, "width": 64}).push_to_hub(NAME)
    files = hub.repos[NAME].files()
    assert {"config.json", "modeling_sailvit.py", "model.safetensors", "README.md"} <= set(files)
    assert files["model.safetensors"].lfs and hub.repos[NAME].private
    pixels = torch.randn(1, 3, 64, 64)
    commit = hub.repos[NAME].resolve("main")
    again = AutoModel.from_pretrained(NAME, revision=commit)
    assert type(again) is SAILViTModel
    with torch.no_grad():
        assert torch.equal(again(pixels).last_hidden_state, model(pixels).last_hidden_state)
    assert AutoImageProcessor.from_pretrained(NAME, revision=commit).size["height"] == 64


def test_push_to_hub_as_a_pull_request_and_in_shards(hub: HubServer) -> None:
    model = encoder()
    HfApi().create_repo(NAME)
    made = model.push_to_hub(NAME, create_pr=True, max_shard_size="100KB")
    assert len([path for path in hub.repos[NAME].files("refs/pr/1") if path.endswith(".safetensors")]) > 1
    again = SAILViTModel.from_pretrained(NAME, revision=made.pr_revision)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    assert set(hub.repos[NAME].files()) == {".gitattributes"}


def test_a_process_without_the_package_pulls_the_same(hub: HubServer, tmp_path: Path) -> None:
    model = encoder()
    model.push_to_hub(NAME, private=True)
    pixels = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
    with torch.no_grad():
        torch.save(model(pixels).last_hidden_state, tmp_path / "expected.pt")
    code = f"""
import sys
sys.modules["sailvit_hf"] = None
import torch
from transformers import AutoModel
model = AutoModel.from_pretrained("{NAME}", revision="{hub.repos[NAME].resolve("main")}", trust_remote_code=True)
with torch.no_grad():
    found = model(torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)).last_hidden_state
print((found - torch.load("expected.pt")).abs().max().item())
"""
    environment = client_environment(hub, tmp_path / "home", ALICE)
    run = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert float(run.stdout) <= 1e-6
