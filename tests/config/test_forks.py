"""Files of forks and older versions, one small file of each shape: served, translated, ignored or refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from stable_audio.config import ConfigError, load_config, load_dataset_config
from stable_audio.factory import create_model_from_config
from stable_audio.training.build import build_training
from tests.config import examples


def problems(data: dict[str, Any], **options: Any) -> dict[str, str]:
    """Path -> message of every mistake of a model file."""
    try:
        load_config(data, **options)
    except ConfigError as error:
        return {p.path: p.message for p in error.problems}
    return {}


def friendly() -> dict[str, Any]:
    """An autoencoder as friendly-stable-audio-tools configures its runs."""
    data = examples.autoencoder()
    data["training"] |= {
        "tqdm": {"disable": False, "refresh": 10},
        "logging": {"log_duration": True, "log_metrics": {"interval": 100}},
        "checkpoint": {"interval": 5000, "keep": 3},
        "demo": {"demo_every": 100, "num_max_samples": 4},
    }
    return data


def test_friendly_files_train_without_the_settings_of_its_runs(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        config = load_config(friendly())
    assert config == load_config(examples.autoencoder())
    assert not config.untrainable
    for key in ("tqdm", "logging", "checkpoint", "demo.num_max_samples"):
        assert f"$.training.{key}: ignored: " in caplog.text
    assert "--checkpoint-every" in caplog.text
    assert "gradient_checkpointing" not in caplog.text


def test_a_mistyped_setting_of_demos_is_a_mistake_all_the_same() -> None:
    data = friendly()
    data["training"]["demo"]["demo_evry"] = 5
    assert problems(data) == {"$.training.demo.demo_evry": "unknown key; did you mean 'demo_every'?"}


LORAW = {"component_whitelist": ["transformer"], "rank": 16, "alpha": 16, "multiplier": 1.0, "dropout": 0.0}


@pytest.mark.parametrize("place", ["lora", "training.lora"])
def test_models_with_a_section_of_loraw_generate_but_do_not_train(place: str) -> None:
    data = examples.cond()
    (data if place == "lora" else data["training"])["lora"] = LORAW
    config = load_config(data)
    (problem,) = config.untrainable
    assert problem.path == f"$.{place}"
    assert problem.message == (
        "not supported: it asks to train low-rank adapters in the way of LoRAW; training.lora_config does so "
        "here; remove the key to train without it, as --lenient does"
    )
    model = create_model_from_config(config)
    with pytest.raises(ValueError, match="low-rank adapters"):
        build_training(config, model)
    lenient = load_config(data, lenient=True)
    assert not lenient.untrainable
    build_training(lenient, model)


def video() -> dict[str, Any]:
    """A model whose fork adds features of video to the input."""
    data = examples.cond()
    data["fps"] = 25
    data["model"]["diffusion"]["input_add_ids"] = ["video"]
    data["model"]["diffusion"]["config"] |= {"input_add_dims": [8], "rotary_cond_emb": True}
    return data


@pytest.mark.parametrize("lenient", [False, True])
def test_what_the_weights_need_is_not_left_out(lenient: bool) -> None:
    told = problems(video(), lenient=lenient)
    assert set(told) == {
        "$.model.diffusion.input_add_ids",
        "$.model.diffusion.config.input_add_dims",
        "$.model.diffusion.config.rotary_cond_emb",
    }
    for message in told.values():
        assert "remove the key" not in message
        assert message.endswith("whose weights need it, so that --lenient does not leave it out")
    assert "input_concat_ids" in told["$.model.diffusion.input_add_ids"]


def test_what_asks_for_nothing_is_ignored(caplog: pytest.LogCaptureFixture) -> None:
    data = examples.cond()
    data["fps"] = 25
    data["model"]["diffusion"]["input_add_ids"] = []
    data["model"]["diffusion"]["config"]["rotary_cond_emb"] = False
    with caplog.at_level(logging.WARNING):
        assert load_config(data) == load_config(examples.cond())
    assert "$.fps: ignored: it is the frame rate of video" in caplog.text


def test_comments_are_ignored_wherever_they_stand(caplog: pytest.LogCaptureFixture) -> None:
    data = examples.cond()
    data["_comment"] = "a model"
    data["comment"] = "of ours"
    data["model"]["diffusion"]["_comment_config"] = "small"
    optimizer = data["training"]["optimizer_configs"]["diffusion"]["optimizer"]
    optimizer["config"]["//"] = "found by trying"
    data["training"]["demo"]["demo_cond"][0]["_comment"] = "the first"
    with caplog.at_level(logging.WARNING):
        assert load_config(data) == load_config(examples.cond())
    assert caplog.text.count("it is a comment") == 5


def test_inpainting_of_diffusion_cond_makes_it_an_inpainting_model(caplog: pytest.LogCaptureFixture) -> None:
    data = examples.inpaint()
    data["model_type"] = "diffusion_cond"
    with caplog.at_level(logging.WARNING):
        assert load_config(data) == load_config(examples.inpaint())
    assert "'diffusion_cond' with training.inpainting is called 'diffusion_cond_inpaint' here" in caplog.text


def test_inpainting_that_no_slot_reads_is_ignored(caplog: pytest.LogCaptureFixture) -> None:
    data = examples.cond()
    data["training"]["inpainting"] = {"mask_kwargs": {"max_mask_segments": 4}}
    with caplog.at_level(logging.WARNING):
        assert load_config(data) == load_config(examples.cond())
    assert "$.training.inpainting: ignored: no slot of the backbone lists 'inpaint_mask'" in caplog.text


def place(data: dict[str, Any], *keys: str | int, value: Any) -> dict[str, Any]:
    """Set the value at a place of a file, and return the file."""
    holder: Any = data
    for key in keys[:-1]:
        holder = holder[key]
    holder[keys[-1]] = value
    return data


@pytest.mark.parametrize(
    ("data", "path", "parts"),
    [
        (
            place(examples.cond(), "model_type", value="lm"),
            "$.model_type",
            ["audio tokens", "diffusion_cond"],
        ),
        (place(examples.cond(), "model_type", value="clap"), "$.model_type", ["CLAP", "not built"]),
        (
            place(examples.autoencoder(), "model", "bottleneck", value={"type": "brq"}),
            "$.model.bottleneck.type",
            ["a quantizer of a fork", "'dithered_fsq'"],
        ),
        (
            place(
                examples.cond(), "model", "pretransform", "config", "bottleneck", value={"type": "round_fsq"}
            ),
            "$.model.pretransform.config.bottleneck.type",
            ["a quantizer of a fork"],
        ),
        (
            place(examples.cond(), "model", "pretransform", value={"type": "audiocraft_pretrained"}),
            "$.model.pretransform.type",
            ["tokens only"],
        ),
        (
            place(examples.autoencoder(), "model", "encoder", "type", value="local_attn"),
            "$.model.encoder.type",
            ["cannot build any more"],
        ),
        (
            place(examples.cond(), "model", "conditioning", "configs", 0, "type", value="sat_clap_text"),
            "$.model.conditioning.configs[0].type",
            ["the CLAP network of later versions"],
        ),
    ],
)
def test_names_of_forks_are_told_for_what_they_are(data: dict[str, Any], path: str, parts: list[str]) -> None:
    message = problems(data)[path]
    assert "did you mean" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize("name", ["MuonAdamW", "CAdamW", "CLion"])
def test_an_optimizer_that_is_not_built_matters_to_training_alone(name: str) -> None:
    data = examples.cond()
    data["training"]["optimizer_configs"]["diffusion"]["optimizer"] = {"type": name, "config": {"lr": 0.1}}
    (problem,) = load_config(data).untrainable
    assert problem.path == "$.training.optimizer_configs.diffusion.optimizer.type"
    assert problem.message.startswith(f'found "{name}": ')
    assert "did you mean" not in problem.message


@pytest.mark.parametrize(
    ("name", "allowed"),
    [("checkpoint", ["gradient_checkpointing"]), ("taae_v2", ["taae"]), ("MuonAdamW", ["AdamW", "Adam"])],
)
def test_a_name_inside_another_is_no_suggestion(name: str, allowed: list[str]) -> None:
    from stable_audio.wording import nearest

    assert nearest(name, allowed) is None


OLD = {"dataset_type": "audio_dir", "datasets": [{"id": "a", "path": "a"}, {"id": "b", "path": "b"}]}


def test_the_metadata_module_of_old_dataset_files_is_that_of_every_entry(
    caplog: pytest.LogCaptureFixture,
) -> None:
    entries = [{"id": "a", "path": "a"}, {"id": "b", "path": "b", "custom_metadata_module": "own.py"}]
    with caplog.at_level(logging.WARNING):
        config = load_dataset_config({**OLD, "custom_metadata_module": "all.py", "datasets": entries})
    assert [e["custom_metadata_module"] for e in config.as_dict()["datasets"]] == ["all.py", "own.py"]
    assert "$.custom_metadata_module: is a key of every entry of 'datasets' here" in caplog.text
    assert "custom_metadata_module" not in entries[0]


def test_local_tars_are_read_as_any(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = {"dataset_type": "local_wds", "datasets": [{"id": "a", "path": str(tmp_path)}]}
    with caplog.at_level(logging.WARNING):
        config = load_dataset_config(data)
    assert config.as_dict() == {**data, "dataset_type": "wds"}
    assert "$.dataset_type: 'local_wds' is called 'wds' here" in caplog.text


def test_datasets_of_video_say_what_to_do_instead() -> None:
    with pytest.raises(ConfigError, match=r"audio_video_dir.*sound with video.*custom_metadata_module"):
        load_dataset_config({**OLD, "dataset_type": "audio_video_dir"})


def test_unknown_keys_say_how_to_leave_them_out() -> None:
    data = examples.cond()
    data["training"]["lunch"] = 1
    data["model"]["diffusion"]["config"]["colour"] = 1
    told = problems(data)
    assert told["$.training.lunch"].endswith("; --lenient leaves it out")
    assert told["$.model.diffusion.config.colour"].endswith(
        "; --lenient leaves it out, if the weights fit without it"
    )
