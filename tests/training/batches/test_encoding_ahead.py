"""The next batch is encoded and read beside the present one, and trains to the same bits."""

from __future__ import annotations

import csv
import math
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stable_audio.config import load_config
from stable_audio.data.base import Batch
from stable_audio.training.batches import encoding_ahead
from stable_audio.training.batches.encoding_ahead import EncodingAhead
from stable_audio.training.diffusion.module import DiffusionTraining
from stable_audio.training.memory_plan import Choice, Planner
from stable_audio.training.trainer import Run
from tests.conditioning.test_text_encoder import save
from tests.training.building import latent_config, tiny_config, tiny_run
from tests.training.saving.test_resume import assert_same_checkpoint

OPTIONS = {"allow_untrained_pretransform": True, "dataset": {"dataset_type": "synthetic", "num_clips": 6}}


def _config(folder: Path | None = None, **training: Any) -> dict[str, Any]:
    """A DiT on the latents of an autoencoder with noise, and with prompts if there is a folder for BERT."""
    config = latent_config() | {"training": {"learning_rate": 1e-3, **training}}
    if folder is not None:
        if not folder.exists():
            save(folder, "bert")
        text = {"model_name": str(folder), "max_length": 12}
        config["model"]["conditioning"]["configs"].append(
            {"id": "prompt", "type": "text_encoder", "config": text}
        )
        config["model"]["diffusion"]["cross_attention_cond_ids"].append("prompt")
    return config


def _recorded(run: Run) -> list[tuple[str, int]]:
    """What is encoded and read in a run, with the position at which that happened."""
    module, calls = run.module, []
    assert isinstance(module, DiffusionTraining)
    encode, conditioner = module._encode, module.model.conditioner
    assert conditioner is not None

    def encoded(*args: Any) -> Tensor:
        calls.append(("encoded", module.position))
        return encode(*args)

    module._encode = encoded  # type: ignore[method-assign]
    if "prompt" in conditioner.conditioners:
        prompt: Any = conditioner.conditioners["prompt"]
        features = prompt._features

        def read(*args: Any, **keywords: Any) -> Any:
            calls.append(("read", module.position))
            return features(*args, **keywords)

        prompt._features = read
    return calls


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "float32": ({}, {}),
    "float16": ({"encoding_precision": "float16"}, {}),
    "accumulation": ({}, {"accum_batches": 2}),
    "workers": ({}, {"num_workers": 1}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_trains_to_the_same_bits(case: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    training, options = CASES[case]
    batches = 4 * options.get("accum_batches", 1)
    calls = {}
    for name, ahead in (("plain", False), ("ahead", True)):
        config = _config(tmp_path / "bert", encode_ahead=ahead, **training)
        run = tiny_run(tmp_path, config, name=name, **OPTIONS, **options)
        calls[name] = _recorded(run)
        assert run.start() == 0
    assert_same_checkpoint(tmp_path / "plain" / "last.ckpt", tmp_path / "ahead" / "last.ckpt")
    at = {"plain": [*range(batches)], "ahead": [0, *range(batches)]}  # batch n + 1 beside n
    for name, found in calls.items():
        for kind in ("encoded", "read"):
            assert [position for what, position in found if what == kind] == at[name]


def test_a_continued_run_trains_to_the_same_bits(tmp_path: Path) -> None:
    config = _config(encode_ahead=True)
    tiny_run(tmp_path, config, name="whole", max_steps=6, **OPTIONS).start()
    tiny_run(tmp_path, config, name="parts", max_steps=3, **OPTIONS).start()
    tiny_run(tmp_path, config, name="parts", max_steps=6, recover=True, **OPTIONS).start()
    assert_same_checkpoint(tmp_path / "whole" / "last.ckpt", tmp_path / "parts" / "last.ckpt")


@pytest.mark.slow
def test_a_run_that_goes_back_takes_other_batches(tmp_path: Path) -> None:
    guard = {"skips": 1, "within": 10}
    for name, ahead in (("plain", False), ("ahead", True)):
        config = _config(encode_ahead=ahead, guard=guard)
        run = tiny_run(tmp_path, config, name=name, max_steps=14, checkpoint_every=4, **OPTIONS)
        step, module = run.module.training_step, run.module

        def spoilt(*args: Any, step: Any = step, module: Any = module) -> Tensor:
            return step(*args) * (math.nan if module.position in (10, 12) else 1.0)

        module.training_step = spoilt  # type: ignore[method-assign]
        assert run.start() == 0
    assert_same_checkpoint(tmp_path / "plain" / "last.ckpt", tmp_path / "ahead" / "last.ckpt")


def _validation(folder: Path) -> list[str]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [row["val/avg_loss"] for row in csv.DictReader(file) if row.get("val/avg_loss")]


def test_validation_between_two_steps_is_not_the_next_batch(tmp_path: Path) -> None:
    for name, ahead in (("plain", False), ("ahead", True)):
        run = tiny_run(
            tmp_path,
            _config(encode_ahead=ahead),
            name=name,
            val_dataset=OPTIONS["dataset"],
            val_every=1,
            **OPTIONS,
        )
        calls = _recorded(run)
        assert run.start() == 0
        # Six clips for validation in batches of two.
        validating = 3 * 4
        assert len(calls) == 4 + validating + ahead
    assert_same_checkpoint(tmp_path / "plain" / "last.ckpt", tmp_path / "ahead" / "last.ckpt")
    plain, other = (_validation(tmp_path / name) for name in ("plain", "ahead"))
    assert len(plain) == 4
    assert plain == other


def test_the_latents_of_clips_that_are_kept_are_not_made_twice(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, _config(encode_ahead=True, cache_latents=True), max_steps=6, **OPTIONS)
    calls = _recorded(run)
    assert run.start() == 0
    assert len(calls) == 6  # once per clip


def test_stored_latents_are_copied_ahead_and_nothing_is_encoded(tmp_path: Path) -> None:
    config = tiny_config(encode_ahead=True)
    del config["model"]["pretransform"]
    config["audio_channels"] = config["model"]["io_channels"] = 1
    config["model"]["diffusion"]["config"]["io_channels"] = 1
    run = tiny_run(tmp_path, config, max_steps=3)
    begun: list[int] = []
    assert isinstance(run.module, DiffusionTraining)
    assert run.module.ahead is not None
    on_device = run.module.ahead.on_device

    def asked(host: Tensor) -> Tensor | None:
        audio = on_device(host)
        begun.append(audio is not None)
        return audio

    run.module.ahead.on_device = asked  # type: ignore[method-assign]
    assert run.start() == 0
    assert begun == [False, True, True]


def _batch(value: float) -> Batch:
    return Batch(torch.full((1, 1, 4), value), [{"prompt": "a bell"}])


def test_another_batch_than_the_one_that_was_begun_ends_it(caplog: pytest.LogCaptureFixture) -> None:
    coming = _batch(2.0)
    encoded: list[int] = []

    def encode(batch: Batch, position: int) -> Tensor:
        encoded.append(position)
        return batch.audio + 1

    ahead = EncodingAhead(upcoming=lambda: coming, encode=encode, read=lambda _: ())
    ahead.begin(1, torch.device("cpu"))
    audio = ahead.on_device(coming.audio)
    assert audio is not None
    latents = ahead.take(audio, 1)
    assert latents is not None
    assert torch.equal(latents, coming.audio + 1)
    ahead.begin(2, torch.device("cpu"))
    ahead.forget()
    assert ahead.on_device(coming.audio) is None
    ahead.begin(3, torch.device("cpu"))
    assert ahead.take(_batch(2.0).audio, 3) is None
    assert "another batch came than the one that was begun" in caplog.text
    ahead.begin(4, torch.device("cpu"))
    assert encoded == [1, 2, 3]


class _Streams:
    """Streams that record who waits for whom, and what is made on which."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.current = _Stream("step", self)

    def Stream(self, _: torch.device) -> _Stream:
        return _Stream("ahead", self)

    def current_stream(self, _: torch.device) -> _Stream:
        return self.current

    @contextmanager
    def stream(self, stream: _Stream) -> Any:
        before, self.current = self.current, stream
        yield
        self.current = before


class _Stream:
    def __init__(self, name: str, streams: _Streams) -> None:
        self.name, self.streams = name, streams

    def wait_stream(self, other: _Stream) -> None:
        self.streams.events.append(f"{self.name} waits for {other.name}")


def test_on_a_gpu_the_work_is_on_a_stream_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    streams, coming = _Streams(), _batch(2.0)
    events = streams.events

    def encode(batch: Batch, _: int) -> Tensor:
        events.append(f"encoded on {streams.current.name}")
        return batch.audio

    def read(batch: Batch) -> list[Tensor]:
        events.append(f"read on {streams.current.name}")
        return []

    def copied(tensor: Tensor, _: torch.device) -> Tensor:
        events.append(f"copied on {streams.current.name}")
        return tensor.clone()

    for name in ("Stream", "current_stream", "stream"):
        monkeypatch.setattr(encoding_ahead.torch.cuda, name, getattr(streams, name))
    monkeypatch.setattr(encoding_ahead, "to_device", copied)
    ahead = EncodingAhead(upcoming=lambda: coming, encode=encode, read=read)
    ahead.begin(1, torch.device("cuda", 0))
    begin = ["ahead waits for step", "copied on ahead", "encoded on ahead", "read on ahead"]
    assert events == begin
    assert ahead.on_device(torch.zeros(1)) is None
    assert events == begin
    audio = ahead.on_device(coming.audio)
    assert audio is not None
    assert audio is not coming.audio
    assert events == [*begin, "step waits for ahead"]


def test_the_plan_counts_both_at_once_on_a_gpu() -> None:
    for device, beside in (("cuda", True), ("cpu", False)):
        plans = {}
        for ahead in (False, True):
            config = load_config(_config(encode_ahead=ahead, use_ema=False))
            plans[ahead] = Planner(config, device=device).plan(Choice(average="none"))
        resting = sum(plans[False].parts[k] for k in ("weights", "buffers", "optimizer", "ema"))
        gradients = plans[False].parts["gradients"]
        encoding = plans[False].moments["encoding"] - resting - gradients
        assert encoding > 0
        for moment in ("forward pass", "backward pass"):
            more = plans[True].moments[moment] - plans[False].moments[moment]
            assert more == (encoding if beside else 0)
        assert plans[True].moments["optimizer step"] == plans[False].moments["optimizer step"]
