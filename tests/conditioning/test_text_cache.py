"""Features of texts on disk: each text is read once, and the encoder leaves the memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stable_audio.conditioning import MultiConditioner
from stable_audio.conditioning.pretrained import cache as cache_module
from stable_audio.conditioning.pretrained.cache import TextCache
from stable_audio.conditioning.pretrained.conditioner import TextFeatures
from stable_audio.conditioning.text_encoder import TextEncoderConditioner
from tests.conditioning import tiny_encoders as tiny
from tests.conditioning.test_text_encoder import save

pytest.importorskip("transformers")


def build(folder: Path, cache: Path | None = None, **options: Any) -> TextEncoderConditioner:
    torch.manual_seed(1)
    settings: dict[str, Any] = {"output_dim": 4, "max_length": 9, **options}
    conditioner = TextEncoderConditioner(model_name=str(folder), **settings).eval()
    if cache is not None:
        assert conditioner.cache_texts(cache)
    return conditioner


def counted(conditioner: TextFeatures, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that the encoder reads, from now on."""
    sizes: list[int] = []
    read = conditioner.read

    def recording(network: Any, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        sizes.append(len(ids))
        return read(network, ids, mask)

    monkeypatch.setattr(conditioner, "read", recording)
    return sizes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "bert", "bert")
    return tmp_path / "bert"


@pytest.mark.parametrize(
    "options", [{}, {"padding_mode": "none"}, {"padding_mode": "learned"}, {"pooling": "mean"}]
)
def test_each_text_is_read_once_and_by_itself(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    texts = [*tiny.TEXTS, tiny.TEXTS[0]]
    expected, valid = build(folder, **options)(texts, "cpu")
    conditioner = build(folder, tmp_path / "cache", **options)
    sizes = counted(conditioner, monkeypatch)
    for _ in range(2):
        found, mask = conditioner(texts, "cpu")
        torch.testing.assert_close(found, expected)
        assert torch.equal(mask, valid)
    assert sizes == [1] * len(tiny.TEXTS)
    later = build(folder, tmp_path / "cache", **options)
    assert torch.equal(later(texts, "cpu")[0], found)
    assert later.network.module is None  # never loaded


def test_files_are_read_once_as_far_as_memory_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def features(texts: list[str]) -> tuple[Tensor, Tensor]:
        return torch.full((1, 3, 2), float(texts[0])), torch.tensor([[True, True, False]])

    def build_cache(**options: int) -> TextCache:
        return TextCache(tmp_path, meaning="x", whole=False, drop=list, **options)

    texts = ["1", "2", "3", "1"]
    expected, _ = build_cache()(texts, features, "cpu")
    opened: list[str] = []
    read = cache_module.read_safetensors

    def recording(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
        opened.append(path.name)
        return read(path)

    monkeypatch.setattr(cache_module, "read_safetensors", recording)
    whole = build_cache()
    for _ in range(2):
        assert torch.equal(whole(texts, features, "cpu")[0], expected)
    assert whole.missing(texts) == []
    assert len(opened) == 3
    # Two texts of two valid positions with two numbers of four bytes: the first one is dropped for the third.
    opened.clear()
    two = build_cache(in_memory=32)
    for names in (["1", "2"], ["1", "3"], ["1"], ["3"], ["2"]):
        rows, mask = two(names, features, "cpu")
        assert rows[:, 0, 0].tolist() == [float(name) for name in names]
        assert rows[:, 2].eq(0).all()
        assert mask.tolist() == [[True, True, False]] * len(names)
    assert [sum(path == name for path in opened) for name in dict.fromkeys(opened)] == [1, 2, 1]


def test_the_encoder_leaves_the_memory_and_comes_back_for_a_new_text(folder: Path, tmp_path: Path) -> None:
    conditioner = build(folder, tmp_path / "cache")
    assert conditioner.cache is not None
    conditioner.cache.patience = 2
    in_memory = []
    for text in ["rock", "rock", "rock", "rock", "drum", "drum", "rock", "rock", "drum", "rock"]:
        conditioner([text], "cpu")
        in_memory.append(conditioner.network.module is not None)
    # Dropped after two calls without a new text, the next time after four.
    assert in_memory == [True, True, False, False, True, True, True, True, False, False]


def test_what_features_depend_on_keeps_them_apart(folder: Path, tmp_path: Path) -> None:
    save(tmp_path / "t5", "t5")
    variants: list[tuple[Path, dict[str, Any]]] = [
        (folder, {}),
        (folder, {"layer": 1}),
        (folder, {"prefix": "soft "}),
        (folder, {"padding_mode": "none"}),
        (folder, {"encoder_dtype": "bfloat16"}),
        (tmp_path / "t5", {}),
    ]
    for place, options in variants:
        found, _ = build(place, tmp_path / "cache", **options)(["rock"], "cpu")
        torch.testing.assert_close(found, build(place, **options)(["rock"], "cpu")[0])
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == len(variants)


def test_other_weights_in_the_same_folder_are_another_encoder(folder: Path, tmp_path: Path) -> None:
    before, _ = build(folder, tmp_path / "cache")(["rock"], "cpu")
    save(folder, "roberta")
    after, _ = build(folder, tmp_path / "cache")(["rock"], "cpu")
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, build(folder)(["rock"], "cpu")[0])


def test_a_damaged_file_is_made_anew(folder: Path, tmp_path: Path) -> None:
    expected, _ = build(folder, tmp_path / "cache")(["rock"], "cpu")
    (file,) = (tmp_path / "cache").rglob("*.safetensors")
    good = file.read_bytes()
    file.write_bytes(good[:-8])
    assert torch.equal(build(folder, tmp_path / "cache")(["rock"], "cpu")[0], expected)
    assert file.read_bytes() == good


def test_an_encoder_that_trains_is_not_cached(folder: Path, tmp_path: Path) -> None:
    trained = build(folder, enable_grad=True)
    multi = MultiConditioner({"a": trained, "b": build(folder)})
    assert multi.uncached_texts() == ["b"]
    assert multi.cache_texts(tmp_path) == ["b"]
    assert multi.uncached_texts() == []
    assert trained.cache is None


@pytest.mark.parametrize("options", [{}, {"padding_mode": "none"}, {"pooling": "mean"}])
def test_prompts_that_are_the_same_are_read_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    conditioner = build(folder, **options)
    prompts = ["a bell", "a long drum roll", "a bell", "a bell"]
    expected = torch.cat([conditioner([prompt, "a long drum roll"], "cpu")[0][:1] for prompt in prompts])
    sizes = counted(conditioner, monkeypatch)
    features, mask = conditioner(prompts, "cpu")
    assert sizes == [2]
    torch.testing.assert_close(features, expected)
    assert torch.equal(mask[0], mask[2])
    assert not torch.equal(features[0], features[1])


def test_an_encoder_that_trains_reads_every_prompt(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conditioner = build(folder, enable_grad=True)
    sizes = counted(conditioner, monkeypatch)
    conditioner(["a bell", "a bell"], "cpu")
    assert sizes == [2]
