"""Encoders by hub id, from a local hub cache as downloads leave it, without network."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio import network
from stable_audio.conditioning import CONDITIONERS
from tests.conditioning import tiny_encoders as tiny
from tests.conditioning.test_text_encoder import save

pytest.importorskip("transformers")

COMMITS = {"main": "a" * 40, "v2": "b" * 40}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    from huggingface_hub import constants, file_download

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked: list[Any] = []

    def no_network(*address: Any, **options: Any) -> None:
        asked.append(address)
        raise OSError("there is no network")

    monkeypatch.setattr(file_download, "get_hf_file_metadata", no_network)
    network.hub_in_reach.cache_clear()
    yield tmp_path / "hub"
    network.hub_in_reach.cache_clear()
    assert not asked, "offline, the hub is asked, and its answer waited for"


def downloaded(cache: Path, name: str, folder: Path, *, revision: str = "main", within: str = "") -> str:
    """Put a folder into the cache as a model of the hub; returns its name."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / revision).write_text(COMMITS[revision])
    shutil.copytree(folder, repository / "snapshots" / COMMITS[revision] / within)
    return name


def features(kind: str, text: Any = "rock drum", **options: Any) -> torch.Tensor:
    torch.manual_seed(0)
    conditioner = CONDITIONERS[kind](output_dim=4, **options).eval()
    with torch.no_grad():
        return conditioner([text], "cpu")[0]


def test_a_hub_id_is_the_folder_that_was_downloaded(cache: Path, tmp_path: Path) -> None:
    save(tmp_path / "bert", "bert")
    tiny.save_clap(tmp_path / "clap")
    tiny.save_t5gemma(tmp_path / "gemma")
    bert = downloaded(cache, "owner/bert", tmp_path / "bert")
    clap = downloaded(cache, "owner/clap", tmp_path / "clap")
    gemma = downloaded(cache, "owner/gemma", tmp_path / "gemma", within="text_encoder")
    sound = torch.rand(1, 48_000) - 0.5
    for there, here in (
        (
            features("text_encoder", model_name=bert, max_length=9),
            features("text_encoder", model_name=str(tmp_path / "bert"), max_length=9),
        ),
        (
            features("clap_text", clap_ckpt_path=clap, max_length=20),
            features("clap_text", clap_ckpt_path=str(tmp_path / "clap"), max_length=20),
        ),
        (
            features("clap_audio", sound, clap_ckpt_path=clap),
            features("clap_audio", sound, clap_ckpt_path=str(tmp_path / "clap")),
        ),
        (
            features("t5gemma", repo_id=gemma, subfolder="text_encoder", max_length=9),
            features("t5gemma", model_path=str(tmp_path / "gemma"), max_length=9),
        ),
    ):
        assert torch.equal(there, here)


def test_a_revision_is_honoured(cache: Path, tmp_path: Path) -> None:
    save(tmp_path / "bert", "bert")
    save(tmp_path / "roberta", "roberta")
    downloaded(cache, "owner/name", tmp_path / "bert")
    downloaded(cache, "owner/name", tmp_path / "roberta", revision="v2")
    for revision, kind in (("", "bert"), ("@main", "bert"), ("@v2", "roberta")):
        found = features("text_encoder", model_name=f"owner/name{revision}", max_length=9)
        assert torch.equal(found, features("text_encoder", model_name=str(tmp_path / kind), max_length=9))


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path / "bert", "bert")
    found = features("text_encoder", model_name="~/bert", max_length=9)
    assert torch.equal(found, features("text_encoder", model_name=str(tmp_path / "bert"), max_length=9))


@pytest.mark.parametrize("kind", ["t5", "t5gemma", "text_encoder", "clap_text", "clap_audio"])
def test_without_transformers_the_error_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    save(tmp_path / "bert", "bert")
    options = {
        "t5": {"t5_model_name": "t5-small"},
        "t5gemma": {},
        "text_encoder": {"model_name": str(tmp_path / "bert")},
        "clap_text": {"clap_ckpt_path": "laion/clap-htsat-fused"},
        "clap_audio": {"clap_ckpt_path": "laion/clap-htsat-fused"},
    }[kind]
    monkeypatch.setitem(sys.modules, "transformers", None)
    value = torch.rand(1, 48_000) if kind == "clap_audio" else "rock"
    with pytest.raises(ImportError, match=r'pip install "stable-audio\[text\]"'):
        features(kind, value, **options)
