"""Whole runs: files, logs, demos, validation, limits, faults."""

from __future__ import annotations

import csv
import html.parser
import json
import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.audio.io import read_audio
from stable_audio.checkpoints import load_model, read_checkpoint
from stable_audio.checkpoints.torch_file import load_torch_file
from stable_audio.inference.memory.operations import Operations
from stable_audio.training.callbacks import summary
from stable_audio.training.diffusion import demos as demos_module
from stable_audio.training.errors import TrainingError
from stable_audio.training.memory_plan import TrainingPlan
from stable_audio.training.memory_plan.choice import Choice
from stable_audio.training.options import RunOptions
from stable_audio.training.record import lines
from stable_audio.training.speed.clock import PARTS
from tests.training.building import DATASET, demo_section, tiny_config, tiny_run


def _rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_files_of_a_run(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, max_steps=5, checkpoint_every=2, keep=2)
    assert run.start() == 0
    kept = sorted(p.name for p in (tmp_path / "run" / "checkpoints").glob("*.ckpt"))
    assert kept == ["step=00000004.ckpt", "step=00000005.ckpt"]
    assert len(list((tmp_path / "run" / "checkpoints").glob("*.safetensors"))) == 2
    assert not list((tmp_path / "run").rglob("*.partial*"))
    content = load_torch_file(tmp_path / "run" / "last.ckpt")
    assert content["stable_audio"]["step"] == 5
    assert content["model_config"] == tiny_config()


def test_the_inference_file_holds_the_average(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, max_steps=6)
    run.start()
    stored = read_checkpoint(tmp_path / "run")
    assert stored.weights == "ema"
    assert stored.config == tiny_config()
    for key, value in run.module.ema.average.items():  # type: ignore[union-attr]
        assert torch.equal(stored.tensors[key], value)
    model, config = load_model(tmp_path / "run")
    assert config.sample_rate == 4000
    assert not model.training
    online, _ = load_model(tmp_path / "run" / "last.ckpt", use_ema=False)
    trained = run.module.model.state_dict()
    assert all(torch.equal(v, trained[k]) for k, v in online.state_dict().items())
    from_folder, _ = load_model(tmp_path / "run", use_ema=False)
    assert all(torch.equal(v, trained[k]) for k, v in from_folder.state_dict().items())
    from_ckpt, _ = load_model(tmp_path / "run" / "last.ckpt")
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in from_ckpt.state_dict().items())


def test_what_is_logged(tmp_path: Path) -> None:
    tiny_run(tmp_path, tiny_config(log_loss_info=True), max_steps=4, gradient_clip_val=0.01).start()
    rows = _rows(tmp_path / "run")
    assert [r["step"] for r in rows] == ["1", "2", "3", "4"]
    for row in rows:
        assert float(row["train/loss"]) == float(row["train/mse_loss"]) > 0
        assert float(row["train/lr"]) == 1e-3
        assert float(row["train/grad_norm"]) > 0.01
        assert float(row["speed/audio_seconds_per_second"]) > 0
        assert 0 <= float(row["speed/data_wait_share"]) <= 1
        parts = [float(row[f"speed/time_{part}"]) for part in PARTS]
        assert min(parts) >= 0
        assert sum(parts) == pytest.approx(1 / float(row["speed/steps_per_second"]), rel=0.2)
        assert {p for p, took in zip(PARTS, parts) if took == 0} == set()
        assert float(row["speed/peak_memory_gib"]) > 0
    buckets = [k for k in rows[0] if k.startswith("model/loss_all_")]
    assert buckets
    assert {f"model/loss_all_0.{i}" for i in range(10)} >= set(buckets)


def test_the_speed_is_compared_with_what_the_device_can_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    done = Operations(products=3e9)
    plan = TrainingPlan(choice=Choice(), device="cpu", parts={}, moments={}, operations=done)
    monkeypatch.setattr(summary, "planned", lambda *_, **__: plan)
    monkeypatch.setattr(lines, "peak_rate", lambda device, dtype: 5e12)
    with caplog.at_level(logging.INFO):
        tiny_run(tmp_path, max_steps=2, accum_batches=2).start()
    for row in _rows(tmp_path / "run"):
        per_second = 2 * 3e9 * float(row["speed/steps_per_second"])
        assert float(row["speed/tflops"]) == pytest.approx(per_second / 1e12, rel=1e-5)
        assert float(row["speed/mfu"]) == pytest.approx(per_second / 5e12, rel=1e-5)
    said = "3 GFLOP per batch and process (matrix products 100%); products reach 5 TFLOP/s here"
    assert said in caplog.text


def test_log_every_averages(tmp_path: Path) -> None:
    tiny_run(tmp_path, name="each", max_steps=4).start()
    tiny_run(tmp_path, name="pairs", max_steps=4, log_every=2).start()
    each = [float(r["train/loss"]) for r in _rows(tmp_path / "each")]
    pairs = [float(r["train/loss"]) for r in _rows(tmp_path / "pairs")]
    assert pairs == pytest.approx([(each[0] + each[1]) / 2, (each[2] + each[3]) / 2], rel=1e-5)


def test_accumulation_counts_steps_not_batches(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, max_steps=3, accum_batches=2)
    run.start()
    assert run.module.position == 6
    assert [r["step"] for r in _rows(tmp_path / "run")] == ["1", "2", "3"]


class _Sources(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [v or "" for k, v in attrs if k in ("src", "href")]


def _links(page: Path) -> list[str]:
    parser = _Sources()
    parser.feed(page.read_text())
    return parser.found


def test_demos(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    run = tiny_run(tmp_path, tiny_config(demo=demo_section()), max_steps=4)
    run.start()
    assert run.demos is not None
    assert run.demos.failure is None
    pages = tmp_path / "run" / "demos"
    for step in (2, 4):
        folder = pages / f"step_{step:08d}"
        wavs = sorted(p.name for p in folder.glob("*.wav"))
        assert wavs == [f"demo_{i:03d}_cfg_{s}.wav" for i in (0, 1) for s in (1, 3)]
        audio, rate = read_audio(folder / wavs[0])
        assert (audio.shape, rate) == ((1, 1024), 4000)
        assert (folder / "spectrograms.png").read_bytes().startswith(b"\x89PNG")
    for page in (pages / "index.html", pages / "step_00000002" / "index.html"):
        links = _links(page)
        assert any(link.endswith(".wav") for link in links)
        # It must work from a disk, without a network.
        assert all((page.parent / link).exists() for link in links)


def test_the_first_demos_come_early_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = tiny_config(demo=demo_section(demo_every=100))
    pages = tmp_path / "run" / "demos"
    assert tiny_run(tmp_path, config, max_steps=2, first_demo_minutes=60.0).start() == 0
    assert not pages.exists()
    early = {"first_demo_minutes": 1e-9, "recover": True}
    with caplog.at_level(logging.INFO):
        assert tiny_run(tmp_path, config, max_steps=5, **early).start() == 0
    assert f"to listen to: {pages / 'index.html'}" in caplog.text
    assert tiny_run(tmp_path, config, max_steps=7, **early).start() == 0
    assert [p.name for p in pages.glob("step_*")] == ["step_00000003"]


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_lower_precisions(tmp_path: Path, precision: str) -> None:
    run = tiny_run(tmp_path, tiny_config(demo=demo_section()), max_steps=2, precision=precision)
    assert run.start() == 0
    assert run.demos is not None
    assert run.demos.failure is None
    model, _ = load_model(tmp_path / "run")
    assert isinstance(model, torch.nn.Module)


def test_demos_are_the_averaged_weights_and_the_same_noise(tmp_path: Path) -> None:
    from stable_audio.inference import generate

    run = tiny_run(tmp_path, tiny_config(demo=demo_section(demo_cfg_scales=[3])), max_steps=4)
    run.start()
    assert run.demos is not None
    model, _ = load_model(tmp_path / "run")
    renderer = run.demos.renderer
    expected = [d.audio for d in renderer.render(model)]
    folder = tmp_path / "run" / "demos" / "step_00000004"
    found = [read_audio(p)[0] for p in sorted(folder.glob("*.wav"))]
    for a, b in zip(found, expected):
        assert torch.allclose(a, b.clamp(-1, 1), atol=1 / 32768)
    assert isinstance(renderer, demos_module.DiffusionDemos)
    alone = generate(
        model, [renderer.prompts[1]], seeds=[1], steps=2, cfg_scale=3.0, sampler="euler", schedule="linear"
    )
    assert torch.allclose(alone[0], expected[1], atol=1e-5)


def test_a_clipped_demo_is_flagged_not_turned_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loud = torch.full((2, 1, 1024), 1.5)
    monkeypatch.setattr(demos_module, "generate", lambda *_, **__: loud)
    tiny_run(tmp_path, tiny_config(demo=demo_section()), max_steps=2).start()
    folder = tmp_path / "run" / "demos" / "step_00000002"
    summary = json.loads((folder / "demos.json").read_text())
    assert all(c["clipped"] and c["peak"] == 1.5 for c in summary["clips"])
    assert '"clipped":true' in (folder / "index.html").read_text()
    assert read_audio(folder / "demo_000_cfg_1.wav")[0].max() > 0.99


def test_a_failing_demo_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise torch.cuda.OutOfMemoryError("no memory for demos")

    monkeypatch.setattr(demos_module, "generate", fail)
    tiny_run(tmp_path, name="plain", max_steps=4).start()
    with caplog.at_level(logging.ERROR):
        assert tiny_run(tmp_path, tiny_config(demo=demo_section()), name="failing", max_steps=4).start() == 0
    assert "no memory for demos" in caplog.text
    plain, failing = (load_torch_file(tmp_path / n / "last.ckpt") for n in ("plain", "failing"))
    assert all(torch.equal(v, failing["state_dict"][k]) for k, v in plain["state_dict"].items())


def test_validation_is_deterministic_and_keeps_the_best(tmp_path: Path) -> None:
    options = {"val_dataset": {**DATASET, "split": "val", "num_clips": 8}, "val_every": 2, "max_steps": 4}
    tiny_run(tmp_path, name="a", **options).start()
    tiny_run(tmp_path, name="b", **options).start()
    first = [{k: v for k, v in r.items() if k.startswith("val/") and v} for r in _rows(tmp_path / "a")]
    again = [{k: v for k, v in r.items() if k.startswith("val/") and v} for r in _rows(tmp_path / "b")]
    assert first == again
    found = [f for f in first if f]
    assert len(found) == 2
    times = [float(found[0][f"val/loss_{t}"]) for t in (0.1, 0.3, 0.5, 0.7, 0.9)]
    assert float(found[0]["val/avg_loss"]) == pytest.approx(sum(times) / 5, rel=1e-4)
    best = read_checkpoint(tmp_path / "a" / "best.safetensors")
    assert float(best.info["val_avg_loss"]) == pytest.approx(
        min(float(f["val/avg_loss"]) for f in found), rel=1e-4
    )


def test_validation_does_not_change_the_run(tmp_path: Path) -> None:
    val = {**DATASET, "split": "val", "num_clips": 8}
    tiny_run(tmp_path, name="plain").start()
    tiny_run(tmp_path, name="validated", val_dataset=val, val_every=1).start()
    losses = [
        [r["train/loss"] for r in _rows(tmp_path / n) if r["train/loss"]] for n in ("plain", "validated")
    ]
    assert losses[0] == losses[1]


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_spoilt(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, max_steps=4)
    score = run.module.score  # type: ignore[attr-defined]
    run.module.score = lambda output, step: score(output, step) * float("nan")  # type: ignore[attr-defined]
    before = {k: v.clone() for k, v in run.module.model.state_dict().items()}
    with pytest.raises(TrainingError, match=r"not finite at step 1.*Files of this step"):
        run.start()
    assert all(torch.equal(v, before[k]) for k, v in run.module.model.state_dict().items())


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny_run(tmp_path, max_steps=4, checkpoint_every=2)
    real, calls = torch.save, []

    def save(content: Any, target: Any, *rest: Any) -> None:
        calls.append(target)
        if len(calls) == 2:
            Path(target).write_bytes(b"part")
            raise OSError(28, "No space left on device")
        real(content, target, *rest)

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(TrainingError, match="No space left"):
        run.start()
    assert load_torch_file(tmp_path / "run" / "last.ckpt")["stable_audio"]["step"] == 2
    assert read_checkpoint(tmp_path / "run" / "last.safetensors").info["step"] == "2"
    assert not list((tmp_path / "run").rglob("*.partial*"))


@pytest.fixture
def largest_file() -> Iterator[Callable[[int], None]]:
    """Limits the size of files that this process can write: what a full disk does, without filling one."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, handler)


def test_writes_that_really_fail(tmp_path: Path, largest_file: Callable[[int], None]) -> None:
    tiny_run(tmp_path, max_steps=2).start()
    last = tmp_path / "run" / "last.ckpt"
    sizes = {p: p.stat().st_size for p in (last, last.with_suffix(".safetensors"))}
    # Room for next to nothing; then for all but the end of the checkpoint.
    for room in (10_000, sizes[last] - 1000):
        run = tiny_run(tmp_path, max_steps=4, recover=True, logger="none")
        largest_file(room)
        with pytest.raises(TrainingError, match="not written"):
            run.start()
        largest_file(-1)
        assert load_torch_file(last)["stable_audio"]["step"] == 2
        assert read_checkpoint(last.with_suffix(".safetensors")).info["step"] == "2"
        assert not list((tmp_path / "run").rglob(".*.partial.*"))


@pytest.mark.parametrize(
    "name",
    ["checkpoints/.step=00000001.0a1b2c3d.partial.ckpt", "profile/.trace.0a1b2c3d.partial.json.tmp"],
)
def test_halves_of_a_killed_run_are_removed(tmp_path: Path, name: str) -> None:
    half = tmp_path / "run" / name
    half.parent.mkdir(parents=True)
    half.write_bytes(b"part")
    tiny_run(tmp_path, max_steps=1).start()
    assert not half.exists()


def _autoencoder_config() -> dict[str, Any]:
    config = tiny_config()
    coder = {"channels": 4, "c_mults": [1, 2], "strides": [4, 8], "latent_dim": 32}
    config["model"]["pretransform"] = {
        "type": "autoencoder",
        "config": {
            "encoder": {"type": "oobleck", "config": {"in_channels": 1, **coder}},
            "decoder": {"type": "oobleck", "config": {"out_channels": 1, **coder}},
            "latent_dim": 32,
            "downsampling_ratio": 32,
            "io_channels": 1,
        },
    }
    return config


def test_an_untrained_pretransform_is_refused(tmp_path: Path) -> None:
    config = _autoencoder_config()
    with pytest.raises(TrainingError, match="--pretransform-ckpt-path"):
        tiny_run(tmp_path, config)
    assert tiny_run(tmp_path, config, max_steps=1, allow_untrained_pretransform=True).start() == 0
    # Its own inference file brings the pretransform along, as part of the model or alone.
    weights = str(tmp_path / "run" / "last.safetensors")
    tiny_run(tmp_path, config, name="again", pretrained_ckpt_path=weights)
    tiny_run(tmp_path, config, name="alone", pretransform_ckpt_path=weights)
    # A resumed run has it in its checkpoint.
    assert tiny_run(tmp_path, config, max_steps=2, recover=True).start() == 0


def test_pretrained_weights_are_the_start(tmp_path: Path) -> None:
    first = tiny_run(tmp_path, name="first", max_steps=5)
    first.start()
    second = tiny_run(tmp_path, name="second", pretrained_ckpt_path=str(tmp_path / "first"))
    expected = first.module.inference_tensors()
    assert all(torch.equal(v, expected[k]) for k, v in second.module.model.state_dict().items())
    assert second.module.ema is not None
    assert all(torch.equal(v, expected[k]) for k, v in second.module.ema.average.items())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 0}, "--batch-size must be at least 1"),
        ({"max_steps": 0}, "--max-steps"),
        ({"keep": 0}, "--keep"),
        ({"name": "a/b"}, "--name"),
        ({"devices": "many"}, "--devices"),
        ({"logger": "comet"}, "comet.*allowed: none, csv, tensorboard, wandb"),
        ({"remove_pretransform_weight_norm": "later"}, "pre_load or post_load"),
        ({"remove_pretransform_weight_norm": "pre_load"}, "no pretransform with weight norms"),
        ({"strategy": "fsdp_cpu_offload"}, "use --strategy fsdp, .* use_ema"),
        ({"strategy": "fsdp", "precision": "16-mixed"}, "does not scale gradients of float16"),
        ({"strategy": "dpp"}, "--strategy 'dpp' is unknown; usual ones are auto, ddp"),
        ({"precision": "bf15"}, "--precision 'bf15' is unknown; allowed: auto, 32-true"),
        ({"accelerator": "abacus"}, "--accelerator 'abacus' is unknown; allowed: auto, cpu"),
    ],
)
def test_wrong_options_are_refused_with_the_flag(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_run(tmp_path, **wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"accelerator": "gpu"}, "--accelerator gpu: torch .* finds none on this machine"),
        ({"accelerator": "mps"}, "--accelerator mps: torch .* finds none on this machine"),
        ({"accelerator": "auto", "devices": "0,1"}, "chooses GPUs by number, but there is no GPU"),
        ({"strategy": "deepspeed"}, r"--strategy deepspeed needs: pip install deepspeed.*audio\[deepspeed\]"),
        ({"logger": "wandb"}, "--logger wandb has no API key|pip install"),
    ],
)
def test_what_this_machine_lacks_is_told_before_a_file_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("stable_audio.training.trainer.starting_model", pytest.fail)
    with pytest.raises((ValueError, ImportError), match=message):
        tiny_run(tmp_path, **wrong)


def test_more_devices_than_there_are_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stable_audio.training.devices.hardware import check_hardware
    from stable_audio.training.options import RunOptions

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    check_hardware(RunOptions(accelerator="gpu", devices="2"), averages=True)
    for devices in ("3", "1,2"):
        with pytest.raises(TrainingError, match=f"--devices {devices}, but torch sees 2 GPUs here"):
            check_hardware(RunOptions(accelerator="gpu", devices=devices), averages=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recover": True}, "--recover cannot .*; leave it out, with --overwrite where a run has this"),
        ({"requeue": True}, "--requeue cannot .*; leave it out, with --overwrite where a run has this"),
        ({"ckpt_path": "runs/other"}, "--ckpt-path cannot be used with --strategy deepspeed"),
        (
            {"checkpoint_format": "shards"},
            "--checkpoint-format shards cannot be used with --strategy deepspeed",
        ),
        ({"strategy": "deepspeed_stage_3"}, "splits weights that cannot be gathered"),
    ],
)
def test_what_needs_other_checkpoints_than_those_of_deepspeed_is_refused(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    from stable_audio.training.devices.hardware import check_hardware
    from stable_audio.training.options import RunOptions

    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    check_hardware(RunOptions(strategy="deepspeed"), averages=False)
    with pytest.raises(TrainingError, match=message):
        check_hardware(RunOptions(**{"strategy": "deepspeed", **options}), averages=False)


def _flags(*given: str) -> Any:
    import argparse

    from stable_audio.cli.train import add_arguments

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(["--dataset-config", "d.json", *given])


def _options(section: Any, *flags: str) -> RunOptions:
    from stable_audio.cli.fields import fields_from

    return RunOptions.from_section(section, **fields_from(_flags(*flags), RunOptions))


def test_every_option_is_a_flag_with_the_same_default() -> None:
    assert _options(None) == RunOptions()


def test_flags_overrule_the_config(tmp_path: Path) -> None:
    from stable_audio.config import load_config

    section = load_config(tiny_config(batch_size=7, max_steps=9, gradient_clip_val=0.5)).training
    options = _options(section, "--max-steps", "3")
    assert (options.batch_size, options.max_steps, options.gradient_clip_val) == (7, 3, 0.5)
    assert _options(section, "--gradient-clip-val", "0").gradient_clip_val == 0


def test_the_command_trains_from_the_config_inside_a_checkpoint(tmp_path: Path) -> None:
    from stable_audio.cli import main
    from tests.training.building import write_files

    files = write_files(tmp_path, tiny_config(batch_size=2, max_steps=2))
    fixed = ["--save-dir", str(tmp_path), "--num-workers", "0", "--accelerator", "cpu", "--no-progress"]
    assert main(["train", *files, *fixed, "--name", "one"]) == 0
    last = str(tmp_path / "one" / "last.ckpt")
    again = ["--ckpt-path", last, *files[2:], *fixed, "--name", "two", "--max-steps", "3"]
    assert main(["train", *again]) == 0
    assert load_torch_file(tmp_path / "two" / "last.ckpt")["stable_audio"]["step"] == 3


def test_the_command_exports(tmp_path: Path) -> None:
    from stable_audio.cli import main

    tiny_run(tmp_path, max_steps=1).start()
    target = tmp_path / "out.safetensors"
    assert main(["export", str(tmp_path / "run"), str(target), "--layout", "sat"]) == 0
    keys = read_checkpoint(target).tensors.keys()
    assert any(k.startswith("model.model.") for k in keys)
    model, _ = load_model(target)
    ours, _ = load_model(tmp_path / "run")
    assert all(torch.equal(v, ours.state_dict()[k]) for k, v in model.state_dict().items())
