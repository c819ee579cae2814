"""Keys of later versions and forks: renamed, ignored with one warning, or refused with the reason."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from stable_audio.config import ConfigError, load_config
from stable_audio.config.reading import compat
from stable_audio.config.reading.compat import FOREIGN_KEYS, Ignore, Refuse, Rename, Spread, foreign_key
from stable_audio.factory import create_model_from_config
from stable_audio.training.build import build_training
from tests.config import examples


def test_ignored_keys_give_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    data = examples.cond()
    data["svd_bases_path"] = "x"
    data["training"]["metrics"] = {"metrics_every": 5}
    data["model"]["diffusion"]["config"]["diffusion_objective"] = "v"
    with caplog.at_level(logging.WARNING):
        assert load_config(data) == load_config(examples.cond())
    assert len(caplog.records) == 1
    for path in ("$.svd_bases_path", "$.training.metrics", "$.model.diffusion.config.diffusion_objective"):
        assert path in caplog.text


def test_refused_keys_say_why_unless_they_ask_for_nothing(caplog: pytest.LogCaptureFixture) -> None:
    data = examples.cond()
    data["training"]["lora_config"] = None
    data["model"]["diffusion"]["config"]["cross_attn_rotary_pos_emb"] = False
    assert load_config(data) == load_config(examples.cond())
    data["model"]["diffusion"]["config"]["cross_attn_rotary_pos_emb"] = True
    data["model"]["conditioning"]["configs"][1]["config"]["padding_mode"] = "learned"
    with pytest.raises(ConfigError) as caught:
        load_config(data)
    found = {p.path: p.message for p in caught.value.problems}
    path = "$.model.diffusion.config.cross_attn_rotary_pos_emb"
    assert found[path].startswith("not supported: no rotary positions in cross-attention; it is part of the")
    assert set(found) == {path, "$.model.conditioning.configs[1].config.padding_mode"}
    with pytest.raises(ConfigError):
        load_config(data, lenient=True)


def test_training_that_is_not_built_is_refused_by_training_only(caplog: pytest.LogCaptureFixture) -> None:
    data = examples.cond()
    data["training"]["arc"] = {"use_model_as_teacher": True}
    data["training"]["optimizer_configs"]["discriminator"] = data["training"]["optimizer_configs"][
        "diffusion"
    ]
    config = load_config(data)
    assert config.as_dict() == examples.cond()
    assert [p.path for p in config.untrainable] == [
        "$.training.arc",
        "$.training.optimizer_configs.discriminator",
    ]
    assert "adversarial post-training is not built" in caplog.text
    with pytest.raises(ValueError, match=r"\$\.training\.arc: not supported"):
        build_training(config, create_model_from_config(config))


def test_renamed_keys_take_effect(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    data = examples.cond()
    data["training"]["clip_grad_norm"] = 0.5
    assert load_config(data).training.gradient_clip_val == 0.5
    monkeypatch.setitem(compat.FOREIGN_KEYS, "training.lr", Rename("learning_rate"))
    data = examples.uncond()
    data["training"]["lr"] = data["training"].pop("learning_rate")
    assert load_config(data) == load_config(examples.uncond())
    assert "$.training.lr: is called 'learning_rate' here" in caplog.text
    data["training"]["learning_rate"] = 1.0
    with pytest.raises(ConfigError, match=r"\$\.training\.lr: unknown key"):
        load_config(data)


def test_patterns_match_any_index() -> None:
    loc: Any = ("model", "conditioning", "configs", 3, "config", "padding_mode")
    assert isinstance(foreign_key(loc), Refuse)
    assert foreign_key(("model", "depht")) is None


def test_no_entry_shadows_a_key_of_the_schema() -> None:
    """The table speaks of unknown keys only: an entry for a key that exists would never be read."""
    from stable_audio.config.sections.top import DiffusionCondConfig

    for pattern, action in FOREIGN_KEYS.items():
        assert isinstance(action, (Ignore, Refuse, Rename, Spread))
        model: Any = DiffusionCondConfig
        for step in pattern.split("."):
            fields = getattr(model, "model_fields", None)
            if fields is None or step not in fields:
                break
            model = fields[step].annotation
            model = next((a for a in getattr(model, "__args__", ()) if hasattr(a, "model_fields")), model)
        else:
            pytest.fail(f"'{pattern}' is in the schema: remove it from the table")
