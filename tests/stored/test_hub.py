"""Models of the hub by name, from a server on the loopback interface and from the cache."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest
import torch

from stable_audio import network
from stable_audio.checkpoints import CheckpointError, load_model, read_checkpoint, resolve
from stable_audio.stored.models import stored_config, weights_file
from tests.inference import tiny
from tests.stored.stub_hub import COMMIT, Repository, StubHub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A published model: weights and config, in a folder."""
    weights, config = tiny.save(tmp_path / "made", tiny.config())
    (tmp_path / "published").mkdir()
    shutil.copy(weights, tmp_path / "published" / "model.safetensors")
    shutil.copy(config, tmp_path / "published" / "model_config.json")
    return tmp_path / "published"


def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    network.hub_in_reach.cache_clear()


def _refusal(name: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        resolve(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_weights_and_config_are_fetched_and_kept(
    hub: StubHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["some-one/tiny"] = Repository(folder)
    model, config = load_model("some-one/tiny")
    expected = tiny.build(tiny.config()).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
    assert config.as_dict() == tiny.config()
    asked = len(hub.requests)
    assert [r for r in hub.requests if r.startswith("GET")] == [
        "GET /some-one/tiny/resolve/main/model_config.json",
        f"GET /some-one/tiny/resolve/{COMMIT}/model.safetensors",
    ]
    _offline(monkeypatch)
    load_model("some-one/tiny")
    assert len(hub.requests) == asked
    assert resolve("some-one/tiny", use_ema=False).name == "model.safetensors"


def test_a_revision_is_asked_for_and_a_file_of_its_own(hub: StubHub, folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "base_model.safetensors")
    (folder / "model_config.json").rename(folder / "other.json")
    hub.repositories["owner/tiny"] = Repository(folder, ("main", "v1", "some/branch"))
    for name in ("owner/tiny@v1/base_model.safetensors", "hf://owner/tiny@some/branch"):
        assert resolve(name).name == "base_model.safetensors"
    assert "HEAD /owner/tiny/resolve/v1/base_model.safetensors" in hub.requests
    assert "HEAD /owner/tiny/resolve/some%2Fbranch/model.safetensors" in hub.requests
    load_model("owner/tiny/base_model.safetensors", config=tiny.config())
    assert resolve("hf:/owner/tiny@v1").name == "base_model.safetensors"
    for path in ("hf:owner/tiny", Path("https://huggingface.co/owner/tiny/")):
        assert _refusal(str(path)) == f"{path}: no such file, and no name on the hub; write hf://owner/tiny"
    assert _refusal("owner/tiny@v2") == "'owner/tiny' on the hub has no revision 'v2'"
    assert _refusal("owner/tiny/model.ckpt") == "'owner/tiny' on the hub has none of model.ckpt"


def test_the_config_is_the_one_beside_the_file(hub: StubHub, folder: Path) -> None:
    (folder / "small").mkdir()
    shutil.copy(folder / "model.safetensors", folder / "small" / "model.safetensors")
    small = {**tiny.config(), "sample_size": tiny.SIZE // 2}
    (folder / "small" / "model_config.json").write_text(json.dumps(small))
    hub.repositories["owner/tiny"] = Repository(folder)
    name = "owner/tiny/small/model.safetensors"
    assert load_model(name)[1].sample_size == tiny.SIZE // 2
    assert stored_config(name)[0]["sample_size"] == tiny.SIZE // 2
    assert stored_config("owner/tiny")[0]["sample_size"] == tiny.SIZE
    assert weights_file(name).read_bytes() == (folder / "model.safetensors").read_bytes()


def test_weights_with_a_name_of_their_own(
    hub: StubHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    hub.repositories["owner/tiny"] = Repository(folder)
    load_model("owner/tiny")
    _offline(monkeypatch)
    assert resolve("owner/tiny").name == "one.safetensors"


def test_several_weights_are_a_choice(hub: StubHub, folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    shutil.copy(folder / "one.safetensors", folder / "two.ckpt")
    hub.repositories["owner/tiny"] = Repository(folder)
    assert "2 files of weights; name one: owner/tiny@" in _refusal("owner/tiny")
    for file in ("one.safetensors", "two.ckpt"):
        (folder / file).unlink()
    assert "on the hub has none of last.safetensors" in _refusal("owner/tiny")


def test_a_gated_repository(hub: StubHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["owner/tiny"] = Repository(folder, gated=True)
    assert _refusal("owner/tiny") == (
        f"'owner/tiny' on the hub is gated: accept its terms at {hub.url}/owner/tiny, then log in with "
        "`hf auth login`, or set HF_TOKEN"
    )
    monkeypatch.setenv("HF_TOKEN", "stranger")
    assert f"accept its terms at {hub.url}/owner/tiny with the account of the token" in _refusal("owner/tiny")
    monkeypatch.setenv("HF_TOKEN", "member")
    assert resolve("owner/tiny").is_file()
    # What was fetched is used without the token, too.
    monkeypatch.delenv("HF_TOKEN")
    assert load_model("owner/tiny")[1].sample_rate == tiny.RATE


def test_no_such_repository(hub: StubHub) -> None:
    text = _refusal("runs/my-rnu")
    assert text.startswith("'runs/my-rnu' is no local path, and the hub has no repository 'runs/my-rnu'")
    assert "no hub id either" in _refusal("a--b/name")


def test_a_hub_that_fails(hub: StubHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["owner/tiny"] = repository = Repository(folder, failing=403)
    assert "the hub refuses 'owner/tiny' (403: as the test asks)" in _refusal("owner/tiny")
    repository.failing = 501  # which, unlike 500, the client does not ask again
    assert "the hub cannot give 'owner/tiny' (501: as the test asks); try again" in _refusal("owner/tiny")
    repository.failing = None
    load_model("owner/tiny")
    repository.failing = 501
    load_model("owner/tiny")


def test_a_download_that_breaks_off(hub: StubHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's tries
    hub.repositories["owner/tiny"] = Repository(folder, cut=True)
    assert "the download of 'owner/tiny" in _refusal("owner/tiny")
    hub.repositories["owner/tiny"].cut = False
    assert load_model("owner/tiny")[1].sample_rate == tiny.RATE


def test_no_network(hub: StubHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{bound.getsockname()[1]}")
        assert _refusal("owner/tiny").endswith(
            "cannot be downloaded: the hub cannot be reached; connect to the network, or name a file"
        )
    _offline(monkeypatch)
    assert "HF_HUB_OFFLINE forbids it" in _refusal("owner/tiny")
    assert hub.requests == []


def test_a_path_is_preferred_to_a_name(
    hub: StubHub, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").mkdir()
    folder.rename(tmp_path / "owner" / "tiny")
    assert read_checkpoint("owner/tiny").config == tiny.config()
    assert hub.requests == []
    hub.repositories["owner/tiny"] = Repository(tmp_path / "owner" / "tiny")
    assert read_checkpoint("hf://owner/tiny").path.parent.name == COMMIT
