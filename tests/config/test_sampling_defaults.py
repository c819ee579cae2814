"""`sampling_defaults` and `demo_sampling` of model files."""

from __future__ import annotations

from typing import Any

import pytest

from stable_audio.config import load_config
from stable_audio.config.reporting.problems import ConfigError
from stable_audio.factory import create_model_from_config
from stable_audio.inference import Sampling
from stable_audio.training.build import build_demos
from stable_audio.training.diffusion.demos import DiffusionDemos
from tests.config.examples import cond


def _config(defaults: Any, **demo: Any) -> dict[str, Any]:
    config = cond()
    config["model"]["diffusion"]["sampling_defaults"] = defaults
    if demo:
        config["training"]["demo"] = {"demo_cond": config["training"]["demo"]["demo_cond"], **demo}
    return config


def test_a_call_takes_what_the_file_says() -> None:
    defaults = {"sampler": "k-unipc", "steps": 12, "options": {"order": 3}, "schedule": "karras", "rho": 7.0}
    model = create_model_from_config(_config(defaults))
    found = Sampling(cfg_scale=2.0).resolved_for(model)
    assert (found.sampler, found.steps, found.schedule, found.rho) == ("k-unipc", 12, "karras", 7.0)
    assert (found.cfg_scale, found.options) == (2.0, {"order": 3, "corrector": True})
    listed = create_model_from_config(_config({"sampler": "euler", "schedule": [1.0, 0.5, 0.0]}))
    assert Sampling().resolved_for(listed).schedule == (1.0, 0.5, 0.0)


@pytest.mark.parametrize(
    ("defaults", "message"),
    [
        ({"sampler": "unipcc"}, r"sampling_defaults: unknown sampler 'unipcc'; did you mean 'unipc'"),
        ({"schedule": [0.5, 1.0]}, r"sampling_defaults: a schedule as a list must fall to 0"),
        ({"steps": "8"}, r"sampling_defaults\.steps: found \"8\""),
        ({"stepps": 8}, r"sampling_defaults\.stepps: unknown key; did you mean 'steps'"),
        ({"sampler": "euler", "options": {"eta": 1}}, r"sampler 'euler' has no option \['eta'\]"),
        ({"schedule": "leading"}, r"counts the steps of a 'ddpm' process"),
    ],
)
def test_mistakes_are_named(defaults: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(_config(defaults))


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(_config({"sampler": "rk5", "cfg_scal": 2.0}))
    told = str(caught.value)
    assert "unknown sampler 'rk5'" in told
    assert "cfg_scal: unknown key; did you mean 'cfg_scale'" in told


def _demo_settings(config: dict[str, Any]) -> dict[str, Any]:
    renderer, _ = build_demos(load_config(config)) or (None, 0)
    assert isinstance(renderer, DiffusionDemos)
    return renderer._settings(create_model_from_config(config), 3.0)


def test_demos_use_the_sampler_of_the_model_and_settings_of_their_own() -> None:
    demo = {"demo_steps": 9, "demo_sampling": {"cfg_interval": [0.0, 0.8], "apg_scale": 0.5}}
    plain = _demo_settings(_config(None, **demo))
    assert (plain["sampler"], plain["schedule"], plain["apg_scale"]) == ("euler", "linear", 0.5)
    assert plain["cfg_interval"] == (0.0, 0.8)
    found = _demo_settings(_config({"sampler": "k-unipc", "steps": 12}, **demo))
    assert "sampler" not in found
    assert (found["steps"], found["cfg_scale"]) == (9, 3.0)
    listed = _demo_settings(_config(None, demo_sampler="euler", demo_sampling={"schedule": [0.99, 0.5, 0.0]}))
    stated = {"cfg_scale": 3.0, "sampler": "euler", "schedule": (0.99, 0.5, 0.0)}
    assert listed == {**stated, "guide": None}


def test_demos_state_steps_sampler_and_scale_by_their_own_keys(caplog: pytest.LogCaptureFixture) -> None:
    load_config(_config(None, demo_sampling={"steps": 3}))
    assert "demo_sampling.steps: ignored" in caplog.text
    with pytest.raises(ConfigError, match=r"demo_sampling\.cfg_intervall: unknown key; did you mean"):
        load_config(_config(None, demo_sampling={"cfg_intervall": [0, 1]}))


@pytest.mark.parametrize(
    ("defaults", "demo", "message"),
    [
        (None, {"demo_guide": "weak.ckpt"}, r"demo_guide: it has no effect without guide_scale"),
        (None, {"demo_sampling": {"guide_scale": 2.0}}, r"guide_scale: .* give its checkpoint as demo_guide"),
        ({"guide_scale": 2.0}, {}, r"sampling_defaults\.guide_scale: it is the weight of a weaker model"),
    ],
)
def test_a_weaker_model_and_its_weight_stand_together(
    defaults: Any, demo: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(_config(defaults, **demo))
