"""Sound is encoded in float16 beside weights in float32, where the run or its device says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.checkpoints.format import TRAINING_ENTRY
from stable_audio.checkpoints.torch_file import load_torch_file
from stable_audio.config import load_config
from stable_audio.data.base import Batch
from stable_audio.factory import create_model_from_config
from stable_audio.training.build import build_training
from stable_audio.training.devices.halved_encoder import ENCODING_KEY, encoding_precision
from stable_audio.training.diffusion.module import DiffusionTraining
from stable_audio.training.errors import TrainingError
from stable_audio.training.memory_plan import Choice, Planner
from tests.training.building import latent_config, tiny_config, tiny_run


def _config(**training: Any) -> dict[str, Any]:
    return latent_config() | {"training": {"learning_rate": 1e-3, "use_ema": False, **training}}


def _module(**training: Any) -> DiffusionTraining:
    torch.manual_seed(0)
    config = load_config(_config(**training))
    module = build_training(config, create_model_from_config(config))
    assert isinstance(module, DiffusionTraining)
    return module


def test_validation_keeps_no_graph_of_an_encoder_that_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    config = _config()
    config["model"]["pretransform"] |= {"enable_grad": True}
    loaded = load_config(config)
    module = build_training(loaded, create_model_from_config(loaded))
    assert isinstance(module, DiffusionTraining)
    made: list[torch.Tensor] = []
    latents = module.latents
    monkeypatch.setattr(module, "latents", lambda *args: made.append(latents(*args)) or made[-1])
    batch = Batch(torch.randn(2, 2, loaded.sample_size), [{"seconds_start": 0, "seconds_total": 1}] * 2)
    module.validation_values(batch, [0, 1])
    module.training_step(batch)
    assert [tensor.requires_grad for tensor in made] == [False, True]


CUDA, CPU = "cuda", "cpu"


@pytest.mark.parametrize(
    ("setting", "device", "resumed", "stored", "expected"),
    [
        ("auto", CUDA, False, None, "float16"),
        ("auto", CPU, False, None, "float32"),
        ("float32", CUDA, False, None, "float32"),
        ("float16", CPU, False, None, "float16"),
        # A run goes on as it began on this type of device, with float32 before there was a choice.
        ("auto", CUDA, True, (CUDA, "float16"), "float16"),
        ("auto", CUDA, True, (CUDA, "float32"), "float32"),
        ("auto", CUDA, True, None, "float32"),
        ("auto", CPU, True, (CPU, "float16"), "float16"),
        ("auto", CPU, True, (CUDA, "float16"), "float32"),
        ("auto", CUDA, True, (CPU, "float32"), "float16"),
    ],
)
def test_the_precision_of_a_run(setting: str, device: str, resumed: bool, stored: Any, expected: str) -> None:
    model = _module().model
    found = encoding_precision(
        model, setting, pre_encoded=False, device=device, resumed=resumed, stored=stored
    )
    assert found == expected


def test_what_is_trained_or_halved_already_or_not_there_keeps_its_type() -> None:
    for change in ({"enable_grad": True}, {"model_half": True}):
        config = _config()
        config["model"]["pretransform"] |= change
        model = create_model_from_config(load_config(config))
        assert encoding_precision(model, "auto", pre_encoded=False, device=CUDA) == "float32"
    plain = create_model_from_config(load_config(tiny_config()))
    latents = _module().model
    assert encoding_precision(plain, "auto", pre_encoded=False, device=CUDA) == "float32"
    assert encoding_precision(latents, "auto", pre_encoded=True, device=CUDA) == "float32"
    with pytest.raises(
        TrainingError, match=r'\$\.training\.encoding_precision: found "float16", but no frozen'
    ):
        encoding_precision(plain, "float16", pre_encoded=False, device=CUDA)
    with pytest.raises(TrainingError, match="the dataset holds latents"):
        encoding_precision(latents, "float16", pre_encoded=True, device=CUDA)


def test_latents_are_those_of_float32_to_half_precision() -> None:
    module = _module()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    audio = 0.1 * torch.randn(2, module.model.audio_channels, 1024)
    exact = module.latents(audio, torch.zeros_like)
    module.encoding_precision = "float16"
    found = module.latents(audio, torch.zeros_like)
    assert found.dtype == torch.float32
    assert 0 < (found - exact).norm() / exact.norm() < 5e-3
    after = module.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    copied = module._halved_encoder
    assert copied is not None
    assert copied.pretransform.model.decoder is None
    assert all(p.dtype == torch.float16 for p in copied.pretransform.parameters())
    assert not any(p is q for p in copied.pretransform.parameters() for q in module.parameters())


def test_the_autoencoder_itself_stays_in_host_memory() -> None:
    module = _module()
    module.encoding_precision = "float16"
    module.to("meta")
    places = {key.split(".")[1]: p.device.type for key, p in module.named_parameters()}
    assert places == {"pretransform": "cpu", "backbone": "meta", "conditioner": "meta"}
    module.begin_fit()
    assert module.model.computes_on == torch.device("meta")  # where demos bring it


def test_a_run_stores_whole_weights_and_goes_on_in_its_precision(tmp_path: Path) -> None:
    options = {"allow_untrained_pretransform": True, "name": "run"}
    run = tiny_run(tmp_path, _config(encoding_precision="float16"), max_steps=1, **options)
    before = {k: v.clone() for k, v in run.module.model.pretransform.state_dict().items()}
    assert run.start() == 0
    stored = load_torch_file(tmp_path / "run" / "last.ckpt")
    assert tuple(stored[TRAINING_ENTRY][ENCODING_KEY]) == (CPU, "float16")
    for key, value in before.items():
        assert torch.equal(stored["state_dict"][f"model.pretransform.{key}"], value)
    again = tiny_run(tmp_path, _config(), max_steps=2, recover=True, **options)
    assert again.module.encoding_precision == "float16"
    assert again.start() == 0


def test_the_plan_counts_half_an_encoder_and_no_decoder() -> None:
    plans = {}
    for setting in ("auto", "float32"):
        planner = Planner(load_config(_config(encoding_precision=setting)), device=CUDA)
        plans[setting] = planner.plan(Choice(average="none"))
    model = _module().model
    weights = {
        name: sum(p.nbytes for p in part.parameters())
        for name, part in model.pretransform.model.named_children()
    }
    saved = plans["float32"].parts["weights"] - plans["auto"].parts["weights"]
    assert saved == sum(weights.values()) - weights["encoder"] / 2 - weights.get("bottleneck", 0) / 2
    assert plans["auto"].moments["encoding"] < plans["float32"].moments["encoding"]
