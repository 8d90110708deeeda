# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Publishing: what goes, what is refused, and that a push is whole or not at all however requests fail."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from sailvit_hf import SAILViTConfig, SAILViTForImageClassification, SAILViTImageProcessorPil, SAILViTModel
from sailvit_hf.errors import SailvitError
from sailvit_hf.hub import publish
from sailvit_hf.hub.publish import publish_checkpoint
from sailvit_hf.hub.remote import Change, Remote
from sailvit_hf.hub.travel import files_to_push
from sailvit_hf.refinement.lineage import Lineage

from ..modeling.twins import randomised
from .conftest import TOKENS
from .faulty_push import NAME, holds, push_with_faults, small_change
from .server import Faults, HubServer


def encoder(folder: Path) -> SAILViTModel:
    model = randomised(SAILViTConfig.preset("tiny", num_hidden_layers=1))
    model.save_pretrained(folder)
    SAILViTImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
    Lineage(name="tower", parents={"vision_tower": "bob/start@abc1234"}).save(folder)
    return model


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    encoder(folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "tower"))


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the clean process, which takes seconds."""
    monkeypatch.setattr(publish, "check_reload", lambda staged, folder: None)


def push(folder: Path, repo: str = NAME, **options) -> publish.Published:
    return publish_checkpoint(folder, repo, pause=lambda seconds: None, **options)


def test_a_push_is_private_and_a_pull_request(hub: HubServer, folder: Path) -> None:
    state = ["optimizer.pt", "scheduler.pt", "training_args.bin", "rng_state.pth", "trainer_state.json", ".hidden"]
    for name in state:
        (folder / name).write_bytes(b"x")
    (folder / "checkpoint-1").mkdir()
    steps: list[str] = []
    result = push(folder, on_step=steps.append)
    assert (result.commit.pull_request, result.commit.revision, result.private) == (1, "refs/pr/1", True)
    assert steps == ["Loading it here and in a clean process", f"Pushing to {NAME}"]
    repo = hub.repos[NAME]
    assert repo.private and set(repo.files()) == {".gitattributes"}
    files = repo.files("refs/pr/1")
    assert set(files) - {".gitattributes"} == set(result.files)
    assert {"model.safetensors", "config.json", "modeling_sailvit.py", "README.md", "lineage.png"} <= set(files)
    assert set(result.left_out) == {*state, "checkpoint-1"}
    assert result.commit.oid == repo.resolve("refs/pr/1")
    model = SAILViTModel.from_pretrained(NAME, revision=result.commit.oid)
    assert torch.equal(model.preprocessor.pos_embed, SAILViTModel.from_pretrained(folder).preprocessor.pos_embed)


def test_no_file_of_the_folder_is_touched(hub: HubServer, unchecked, folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    push(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_branch_main_and_public(hub: HubServer, unchecked, folder: Path) -> None:
    result = push(folder, pull_request=False, private=False, message="First\n\nWith a word more")
    repo = hub.repos[NAME]
    assert not repo.private and not result.private and "model.safetensors" in repo.files()
    commit = repo.commits[repo.resolve("main")]
    assert (commit.title, commit.description) == ("First", "With a word more")
    (folder / "history.json").write_text("[]")
    result = push(folder, branch="next", private=False)
    assert result.commit.revision == "next" and not repo.discussions
    assert "history.json" in repo.files("next") and "history.json" not in repo.files()


def test_a_public_repository_needs_a_word(hub: HubServer, unchecked, folder: Path) -> None:
    push(folder, private=False)
    before = hub.state()
    with pytest.raises(SailvitError, match="is public: say --public"):
        push(folder, pull_request=False)
    assert hub.state() == before


def test_the_same_twice_is_one_commit(hub: HubServer, unchecked, folder: Path) -> None:
    first, second = push(folder), push(folder)
    assert first.commit.new and not second.commit.new and second.commit.oid == first.commit.oid
    assert len(hub.repos[NAME].discussions) == 1
    main = push(folder, pull_request=False)
    assert main.commit.new
    assert push(folder, pull_request=False).commit.new is False
    assert push(folder).commit.revision == "main"  # nothing to ask for any more


def test_older_weights_go_in_the_same_commit(hub: HubServer, unchecked, folder: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    encoder(shards)
    (shards / "model.safetensors").unlink()
    SAILViTModel.from_pretrained(folder).save_pretrained(shards, max_shard_size="100KB")
    Lineage(name="tower").save(shards)
    push(shards, pull_request=False)
    repo = hub.repos[NAME]
    assert "model.safetensors.index.json" in repo.files() and "model.safetensors" not in repo.files()
    commits = len(repo.commits)
    push(folder, pull_request=False)
    weights = [name for name in repo.files() if "safetensors" in name]
    assert weights == ["model.safetensors"] and len(repo.commits) == commits + 1


def test_whose_repository(hub: HubServer, unchecked, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert push(folder, "tower").commit.repo == NAME
    with pytest.raises(SailvitError, match="bob/tower was not changed: the Hub refused .403"):
        push(folder, "bob/tower")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(SailvitError, match="hf auth login"):
        push(folder, "other")
    with pytest.raises(SailvitError, match="hf auth login"):
        push(folder, "alice/other")
    with pytest.raises(SailvitError, match="hf auth login") as error:
        push(folder, "alice/other", token="hf_wrongwrongwrongwrongwrongwrong")
    assert "wrongwrong" not in str(error.value)
    assert set(hub.repos) == {NAME}


def write(name: str, content: str | bytes) -> Callable[[Path], None]:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data) and None


def edit(name: str, **changes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def rename(name: str, other: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).rename(folder / other) and None


def link(folder: Path) -> None:
    (folder.parent / "secret.txt").write_text("of another folder")
    (folder / "notes.txt").symlink_to(folder.parent / "secret.txt")


def changed_weights(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, folder / "model.safetensors", {"format": "pt"})


def escaping_index(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "../outside.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


REFUSED = [
    (rename("config.json", "elsewhere.json"), "is no checkpoint of transformers.*: name one that it loads"),
    (rename("model.safetensors", "weights.safetensors"), "holds no weights"),
    (rename("model.safetensors", "pytorch_model.bin"), "pickle only .pytorch_model.bin."),
    (write("adapter_config.json", "{}"), "holds an adapter.*merge it first"),
    (escaping_index, "names ../outside.safetensors, which is no safetensors file in it"),
    (write("modeling_sailvit.py", "import os"), "modeling_sailvit.py in .* is not the code of this sailvit_hf"),
    (edit("config.json", auto_map={"AutoModel": "evil/repo--modeling.Model"}), "evil/repo--modeling.Model"),
    (edit("preprocessor_config.json", auto_map={"AutoImageProcessor": {"pil": "evil/repo--x.Y"}}), "evil/repo--x.Y"),
    (edit("config.json", auto_map={"AutoModel": "modeling_gone.Model"}), "modeling_gone.Model, which is not beside"),
    (link, "notes.txt is a link to a file elsewhere"),
    (write("notes.txt", "token: hf_" + "a1B2" * 9), "notes.txt holds what looks like an access token"),
    (changed_weights, "model.safetensors is not the file that refinement.json describes"),
]


@pytest.mark.parametrize(("spoil", "message"), REFUSED)
def test_what_is_refused_is_named_and_nothing_is_sent(
    hub: HubServer, unchecked, folder: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(folder)
    with pytest.raises(SailvitError, match=message):
        push(folder)
    assert hub.log == []


def drop_image_processor(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink(missing_ok=True)
    (folder / "processor_config.json").unlink(missing_ok=True)


def test_what_cannot_be_loaded_is_not_pushed(hub: HubServer, folder: Path) -> None:
    drop_image_processor(folder)
    with pytest.raises(SailvitError, match="cannot be loaded and run here"):
        push(folder)
    assert hub.log == []


def test_what_needs_the_package_is_not_pushed(hub: HubServer, folder: Path) -> None:
    for path in folder.glob("*.py"):
        path.unlink()
    for name in ("config.json", "preprocessor_config.json"):
        path = folder / name
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "auto_map"}))
    with pytest.raises(SailvitError, match="cannot be loaded without this package .*sailvit"):
        push(folder)
    assert hub.log == []


def test_what_does_something_else_elsewhere_is_not_pushed(hub: HubServer, folder: Path, monkeypatch) -> None:
    def shifted(staged: Path, trust_remote_code: bool) -> dict:
        found = publish.outputs(str(staged), False)
        return {**found, "last_hidden_state": found["last_hidden_state"] + 1e-3}

    monkeypatch.setattr(publish, "outputs_elsewhere", shifted)
    with pytest.raises(SailvitError, match=r"something else in a clean process .last_hidden_state differs by 0.00"):
        push(folder)
    assert hub.log == []


def test_a_classifier(hub: HubServer, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = SAILViTConfig.preset("tiny", num_hidden_layers=1, num_labels=3)
    SAILViTForImageClassification(config).save_pretrained(tmp_path / "classifier")
    SAILViTImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "classifier")
    push(tmp_path / "classifier", pull_request=False)
    card = hub.repos[NAME].files()["README.md"].content.decode()
    assert "AutoModelForImageClassification.from_pretrained(repo, revision=revision" in card


def test_the_card(hub: HubServer, unchecked, folder: Path) -> None:
    hub.repos.clear()
    stage = {
        "stage": "coarse", "trains": ["vision_tower"], "learning_rates": {"vision_tower": 1e-4}, "arguments": {},
        "data": {"source": "/home/me/pictures.jsonl", "samples": 9, "fingerprint": "0123456789abcdef"}, "steps": 3,
        "max_steps": 3, "samples_seen": 12, "train_loss": 1.25, "final_loss": 1.0, "seed": 7, "versions": {},
        "hardware": {},
    }  # fmt: skip
    parents = {"vision_tower": "bob/start@abc1234", "language_model": "/home/me/models/llm"}
    edit("refinement.json", stages=[stage], parents=parents)(folder)
    push(folder, pull_request=False)
    files = hub.repos[NAME].files()
    card = files["README.md"].content.decode()
    for line in (
        "---\nlibrary_name: transformers\npipeline_tag: image-feature-extraction\nbase_model:\n- bob/start\n",
        "| vision_tower | [bob/start](https://huggingface.co/bob/start) | abc1234 | not recorded |",
        "| language_model | `llm` (a local folder) |  | not recorded |",
        "| coarse | vision_tower | 0.0001 | `pictures.jsonl` (a local folder) | 12 | `0123456789ab` | 3 | 7 |",
        "| coarse | mean training loss | 1.2500 |",
        f'repo, revision = "{NAME}", "<commit>"',
        "revision=revision, trust_remote_code=True)",
    ):
        assert line in card, line
    assert "/home/me" not in card
    (folder / "lineage.png").write_bytes(files["lineage.png"].content)
    assert Image.open(folder / "lineage.png").width > 300
    (folder / "README.md").write_text("---\nlibrary_name: transformers\n---\nMine\n")
    push(folder, pull_request=False, keep_card=True)
    assert hub.repos[NAME].files()["README.md"].content.endswith(b"Mine\n")


def test_the_licence_of_a_parent_is_asked_for(hub: HubServer, unchecked, folder: Path, monkeypatch) -> None:
    from sailvit_hf.hub.lineage_card import card

    lineage = json.loads((folder / "refinement.json").read_text())
    asked = []
    text = card(lineage, {}, NAME, lambda *parent: asked.append(parent) or "apache-2.0")
    assert asked == [("bob/start", "abc1234")] and "\nlicense: apache-2.0\n" in text


# Faults


@pytest.fixture
def small(tmp_path: Path) -> Change:
    return small_change(tmp_path)


@pytest.mark.parametrize("kind", ["429", "500", "unheard", "cut", "unsaid"])
@pytest.mark.parametrize("pull_request", [True, False])
def test_a_commit_is_made_once_whatever_its_answer(hub: HubServer, small: Change, kind: str, pull_request) -> None:
    remote = Remote(NAME, pause=lambda seconds: None)
    remote.prepare(private=True)
    hub.faults = Faults(plan=[kind, kind], only="POST .*/commit/")
    result = remote.commit(small, pull_request=pull_request)
    assert result.new and holds(hub, result.revision, small)
    assert len(hub.repos[NAME].commits) == 2 and len(hub.repos[NAME].discussions) == int(pull_request)


@pytest.mark.parametrize("tries", [2, 10])
@pytest.mark.parametrize("seed", range(4))
def test_a_push_through_faults_is_whole_or_not_at_all(hub: HubServer, small: Change, seed: int, tries: int) -> None:
    said = push_with_faults(hub, small, seed, tries, pull_request=seed % 2 == 0)
    assert said == "pushed whole" or tries == 2


@pytest.mark.parametrize("seed", range(3))
def test_a_new_repository_through_faults(hub: HubServer, unchecked, folder: Path, seed: int) -> None:
    hub.faults = Faults(rate=0.3, seed=seed)
    result = push(folder, "tower")
    hub.faults = Faults()
    files = hub.repos[NAME].files("refs/pr/1")
    assert set(result.files) <= set(files) and hub.repos[NAME].private and len(hub.repos[NAME].discussions) == 1
    assert files["model.safetensors"].content == (folder / "model.safetensors").read_bytes()


def test_somebody_elses_commit_is_not_run_over(hub: HubServer, small: Change) -> None:
    from huggingface_hub import CommitOperationAdd, HfApi

    remote = Remote(NAME, pause=lambda seconds: None)
    remote.prepare(private=True)
    send = remote._send

    def late(*args):
        HfApi().create_commit(NAME, [CommitOperationAdd("b", b"theirs")], commit_message="theirs")
        return send(*args)

    remote._send = late
    with pytest.raises(SailvitError, match="was not changed.*somebody else's commit came between"):
        remote.commit(small)
    assert set(hub.repos[NAME].files()) == {".gitattributes", "b"}


def test_a_branch_that_may_not_be_made_is_a_sentence(hub: HubServer, small: Change) -> None:
    remote = Remote(NAME, pause=lambda seconds: None)
    remote.prepare(private=True)
    before = hub.state()
    hub.faults = Faults(plan=["403"], only="POST .*/branch/")
    with pytest.raises(SailvitError, match="was not changed: the Hub refused it .403"):
        remote.commit(small, revision="next")
    assert hub.state() == before


def test_a_branch_with_somebody_elses_commit_stays(hub: HubServer, small: Change) -> None:
    from huggingface_hub import CommitOperationAdd, HfApi

    remote = Remote(NAME, pause=lambda seconds: None)
    remote.prepare(private=True)
    send = remote._send

    def late(change, head, revision, pull_request):
        theirs = [CommitOperationAdd("b", b"theirs")]
        HfApi().create_commit(NAME, theirs, commit_message="theirs", revision=revision)
        return send(change, head, revision, pull_request)

    remote._send = late
    with pytest.raises(SailvitError, match="somebody else's commit came between"):
        remote.commit(small, revision="next")
    assert set(hub.repos[NAME].files("next")) == {".gitattributes", "b"}


def test_a_run_folder_names_its_checkpoints(made: Path, tmp_path: Path) -> None:
    for name in ("coarse", "fine"):
        shutil.copytree(made, tmp_path / "run" / name)
    with pytest.raises(SailvitError, match=r"run is no checkpoint .* one of the checkpoints in it .coarse, fine"):
        files_to_push(tmp_path / "run")


def test_a_branch_made_for_nothing_goes_again(hub: HubServer, small: Change) -> None:
    remote = Remote(NAME, pause=lambda seconds: None, tries=3)
    remote.prepare(private=True)
    before = hub.state()
    hub.faults = Faults(plan=["500"] * 3, only="POST .*/commit/")
    with pytest.raises(SailvitError, match="was not changed, it is new.*went on failing .500"):
        remote.commit(small, revision="next")
    assert hub.state() == before


def test_tokens_are_nowhere(hub: HubServer, unchecked, folder: Path, caplog) -> None:
    caplog.set_level("DEBUG")
    push(folder, pull_request=False)
    kept = [blob.content for blob in hub.repos[NAME].files().values()]
    assert not any(token.encode() in content for token in TOKENS for content in kept)
    assert not any(token in caplog.text for token in TOKENS)


def test_files_to_push_of_the_cache(made: Path, tmp_path: Path) -> None:
    """A snapshot in the Hub's cache is links to blobs, and may be pushed."""
    snapshot, blobs = tmp_path / "models--a--b/snapshots/abc", tmp_path / "models--a--b/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(made.iterdir()):
        shutil.copyfile(path, blobs / str(number))
        (snapshot / path.name).symlink_to(blobs / str(number))
    chosen, left_out = files_to_push(snapshot)
    assert set(chosen) == {path.name for path in made.iterdir()} and left_out == []
