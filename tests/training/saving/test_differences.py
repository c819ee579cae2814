"""Checkpoints that hold what a run has changed, and name the file that has the rest."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from stable_audio.checkpoints import CheckpointError, export, files, load_model, load_pretransform
from stable_audio.checkpoints.torch_file import load_torch_file
from stable_audio.cli import main
from stable_audio.training.errors import TrainingError
from tests.training.building import latent_config, stored, tiny_config, tiny_run
from tests.training.saving.test_resume import assert_same_checkpoint

LAYER = "backbone.transformer.layers.0"


def config(**freeze: Any) -> dict[str, Any]:
    options = {"trained": [LAYER, "conditioner"], **freeze}
    return tiny_config(transforms=[{"type": "freeze", "config": options}])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An inference file whose average differs from the weights as trained."""
    folder = tmp_path_factory.mktemp("base")
    assert tiny_run(folder, tiny_config(), name="base", max_steps=2, demos=False).start() == 0
    return folder / "base" / "last.safetensors"


def run(folder: Path, file: Path, name: str, weights: str = "difference", **options: Any) -> None:
    given = {"max_steps": 2, "demos": False, "pretrained_ckpt_path": str(file), **options}
    settings = given.pop("config", config())
    assert tiny_run(folder, settings, name=name, checkpoint_weights=weights, **given).start() == 0


def state(path: Path, **options: Any) -> dict[str, Tensor]:
    return load_model(path, **options)[0].state_dict()


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [k for k, v in one.items() if not torch.equal(v, other[k])] == []


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("use_ema", [True, False])
def test_a_difference_loads_as_the_whole_does(
    tmp_path: Path, base: Path, precision: str, use_ema: bool
) -> None:
    settings = config(precision=precision)
    for name in ("whole", "difference"):
        run(tmp_path, base, name, name, config=settings)
    for file in ("last.safetensors", "last.ckpt", "checkpoints/step=00000002.ckpt"):
        whole, difference = (tmp_path / n / file for n in ("whole", "difference"))
        if file.endswith(".ckpt") and not whole.exists():
            continue
        assert_equal(state(whole, use_ema=use_ema), state(difference, use_ema=use_ema))
    with safe_open(tmp_path / "difference" / "last.safetensors", "pt") as file:
        keys = set(file.keys())
    names = [k for k, _ in tiny_run(tmp_path, config(), name="x").module.model.named_parameters()]
    trained = {k for k in names if k.startswith((LAYER, "conditioner"))}
    assert trained <= keys
    assert not keys & (set(names) - trained)
    entry = load_torch_file(tmp_path / "difference" / "last.ckpt")
    stored = {k.removeprefix("model.") for k in entry["state_dict"]}
    assert stored & set(names) == trained
    assert set(entry["stable_audio"]["ema"]["average"]) & set(names) == {
        k for k in trained if k.startswith("backbone")
    }


def test_the_file_that_a_run_starts_from_is_read_once(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Path] = []
    read = files._read_safetensors

    def counted(path: Path, use_ema: bool) -> files.StoredWeights:
        reads.append(path)
        return read(path, use_ema)

    monkeypatch.setattr(files, "_read_safetensors", counted)
    tiny_run(tmp_path, config(), checkpoint_weights="base", pretrained_ckpt_path=str(base), demos=False)
    assert reads == [base]
    assert_equal(read(tmp_path / "run" / "base.safetensors", True).tensors, read(base, True).tensors)


@pytest.mark.parametrize("weights", ["difference", "base"])
def test_a_run_that_saves_differences_goes_on_exactly(tmp_path: Path, base: Path, weights: str) -> None:
    settings = config(precision="bfloat16")
    run(tmp_path, base, "unbroken", weights, max_steps=4, config=settings)
    run(tmp_path, base, "parts", weights, config=settings)
    run(tmp_path, base, "parts", weights, max_steps=4, config=settings, recover=True)
    assert_same_checkpoint(tmp_path / "unbroken" / "last.ckpt", tmp_path / "parts" / "last.ckpt")
    first, second = (load_torch_file(tmp_path / n / "last.ckpt") for n in ("unbroken", "parts"))
    assert first["stable_audio"]["base"] == second["stable_audio"]["base"]
    assert_equal(state(tmp_path / "unbroken"), state(tmp_path / "parts"))


def test_a_run_changes_weights_in_parts(tmp_path: Path) -> None:
    options = {"max_steps": 2, "demos": False, "checkpoint_format": "shards"}
    assert tiny_run(tmp_path, tiny_config(), name="base", **options).start() == 0
    parts = tmp_path / "base" / "checkpoints" / "step=00000002.shards"
    run(tmp_path, parts, "whole", "whole", max_steps=3)
    run(tmp_path, parts, "difference")
    run(tmp_path, parts, "difference", max_steps=3, recover=True)
    assert_equal(state(tmp_path / "whole"), state(tmp_path / "difference"))
    parts.rename(tmp_path / "difference" / parts.name)  # beside the file that refers to it
    assert_equal(state(tmp_path / "whole"), state(tmp_path / "difference" / "last.safetensors"))


def test_a_run_that_saved_a_difference_may_go_on_with_whole_checkpoints(tmp_path: Path, base: Path) -> None:
    run(tmp_path, base, "whole", "whole", max_steps=4)
    run(tmp_path, base, "parts")
    run(tmp_path, base, "parts", "whole", max_steps=4, recover=True)
    assert_same_checkpoint(tmp_path / "whole" / "last.ckpt", tmp_path / "parts" / "last.ckpt")


def test_a_run_that_saved_whole_checkpoints_cannot_go_on_with_differences(tmp_path: Path, base: Path) -> None:
    run(tmp_path, base, "run", "whole")
    with pytest.raises(TrainingError, match=r"goes on with these"):
        run(tmp_path, base, "run", max_steps=4, recover=True)
    with pytest.raises(TrainingError, match="--pretrained-ckpt-path"):
        tiny_run(tmp_path, config(), name="scratch", checkpoint_weights="difference")


def test_an_absent_or_changed_base_is_named(tmp_path: Path, base: Path) -> None:
    file = tmp_path / "start.safetensors"
    shutil.copy(base, file)
    run(tmp_path, file, "run")
    difference = tmp_path / "run" / "last.safetensors"
    expected = state(difference)
    file.unlink()
    message = rf"{difference}: holds what a run has changed of the weights in {file}, which is not there"
    with pytest.raises(CheckpointError, match=message):
        load_model(difference)
    with pytest.raises(CheckpointError, match="which is not there"):
        run(tmp_path, base, "run", max_steps=4, recover=True)
    shutil.copy(base, tmp_path / "run" / "start.safetensors")  # beside the file that refers to it
    assert_equal(state(difference), expected)
    (tmp_path / "run" / "start.safetensors").unlink()
    run(tmp_path, base, "other", "whole", config=tiny_config())
    shutil.copy(tmp_path / "other" / "last.safetensors", file)
    with pytest.raises(CheckpointError, match=rf"but {file} has the hash [0-9a-f]{{16}}; put"):
        load_model(difference)
    with pytest.raises(CheckpointError, match="has the hash"):
        run(tmp_path, base, "run", max_steps=4, recover=True)


def test_the_base_is_known_by_its_weights_not_by_its_file(tmp_path: Path, base: Path) -> None:
    """A copy with other bytes, but the same weights under the same names."""
    file = tmp_path / "start.safetensors"
    shutil.copy(base, file)
    run(tmp_path, file, "run")
    expected = state(tmp_path / "run")
    model, loaded = load_model(base)
    export(model, file, config=loaded.as_dict())
    assert file.read_bytes() != base.read_bytes()
    assert_equal(state(tmp_path / "run"), expected)


def test_a_folder_with_its_base_can_be_moved(tmp_path: Path, base: Path) -> None:
    file = tmp_path / "start.safetensors"
    shutil.copy(base, file)
    run(tmp_path, file, "run", "base", max_steps=4, checkpoint_every=2)
    expected = state(tmp_path / "run")
    file.unlink()
    shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    assert_equal(state(tmp_path / "elsewhere"), expected)
    step = tmp_path / "elsewhere" / "checkpoints" / "step=00000004.safetensors"
    assert_equal(state(step), expected)


def test_export_writes_the_whole(tmp_path: Path, base: Path) -> None:
    run(tmp_path, base, "run")
    target = tmp_path / "whole.safetensors"
    assert main(["export", str(tmp_path / "run"), str(target)]) == 0
    with safe_open(target, "pt") as file:
        assert "base" not in file.metadata()
    assert_equal(state(target), state(tmp_path / "run"))


def test_a_run_may_start_from_a_difference_and_save_one_of_it(tmp_path: Path, base: Path) -> None:
    run(tmp_path, base, "first")
    first = tmp_path / "first" / "last.safetensors"
    other = tiny_config(transforms=[{"type": "freeze", "config": {"trained": ["*.layers.1.ff"]}}])
    for weights in ("whole", "difference"):
        run(tmp_path, first, weights, weights, config=other)
    assert_equal(state(tmp_path / "whole"), state(tmp_path / "difference"))
    with pytest.raises(CheckpointError, match="stable-audio export"):
        run(tmp_path, first, "copied", "base", config=other)
    before, after = state(first), state(tmp_path / "difference")
    changed = {k for k, v in after.items() if not torch.equal(v, before[k])}
    assert changed
    assert all(".layers.1.ff" in k for k in changed)


def autoencoder_config() -> dict[str, Any]:
    """The autoencoder of `latent_config`, whose decoder alone is trained."""
    shape = latent_config()["model"]["pretransform"]["config"]
    return {
        "model_type": "autoencoder",
        "sample_rate": 4000,
        "sample_size": 1024,
        "audio_channels": shape["io_channels"],
        "model": shape,
        "training": {
            "learning_rate": 1e-2,
            "loss_configs": {"time": {"weights": {"l1": 1.0}}},
            "transforms": [{"type": "freeze", "config": {"trained": ["decoder"]}}],
        },
    }


@pytest.mark.slow
def test_a_pretransform_may_be_a_difference(tmp_path: Path) -> None:
    file = stored(tmp_path, ".safetensors", autoencoder_config())
    run(tmp_path, file, "vae", config=autoencoder_config())
    expected, before = state(tmp_path / "vae"), state(file)
    moved = {k for k in expected if not torch.equal(expected[k], before[k])}
    assert moved
    assert all(k.startswith("decoder.") for k in moved)
    model = load_model(stored(tmp_path, ".ckpt", latent_config()))[0]
    assert load_pretransform(model, tmp_path / "vae").complete
    assert_equal(model.pretransform.model.state_dict(), expected)
    # The other way round: a diffusion model whose difference has no pretransform, since the base is one.
    run(tmp_path, file, "diffusion", config=latent_config())
    with safe_open(tmp_path / "diffusion" / "last.safetensors", "pt") as difference:
        assert not [k for k in difference.keys() if "decoder" in k]  # noqa: SIM118
    run(tmp_path, file, "whole", "whole", config=latent_config())
    assert_equal(state(tmp_path / "whole"), state(tmp_path / "diffusion"))
    assert load_pretransform(model, tmp_path / "diffusion").complete
    assert_equal(model.pretransform.model.state_dict(), before)


@pytest.mark.slow
def test_what_a_transform_rewrites_is_saved(tmp_path: Path) -> None:
    file = stored(tmp_path, ".safetensors", latent_config())
    for name in ("whole", "difference"):
        run(
            tmp_path,
            file,
            name,
            name,
            config=latent_config(),
            remove_pretransform_weight_norm="post_load",
        )
    assert_equal(state(tmp_path / "whole"), state(tmp_path / "difference"))
    assert any(k.endswith(".weight_g") for k in state(file))
    assert not any(k.endswith(".weight_g") for k in state(tmp_path / "difference"))
    run(tmp_path, file, "whole", "whole", config=latent_config(), max_steps=4, recover=True)
    run(tmp_path, file, "difference", config=latent_config(), max_steps=4, recover=True)
    assert_equal(state(tmp_path / "whole"), state(tmp_path / "difference"))
