"""Trimming, loudness and true peak of rendered clips, and recipes within the sounds."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from stable_audio.audio.io import read_audio
from stable_audio.audio.loudness import integrated_loudness, true_peak
from stable_audio.audio.rates import rate_in
from stable_audio.cli import main
from stable_audio.inference.rendering.finishing import Finishing
from stable_audio.inference.rendering.recipe import read_recipe
from tests.inference import tiny

RATE = 48000


def _tone(frequency: float, seconds: float = 1.0, phase: float = 0.0) -> torch.Tensor:
    time = torch.arange(round(seconds * RATE), dtype=torch.float64) / RATE
    return torch.sin(2 * math.pi * frequency * time + phase)[None].float()


def test_the_true_peak_lies_between_the_samples() -> None:
    # Sampled at its zeros and peaks +-45 degrees, a sine of a quarter of the rate never shows its peak.
    tone = 0.5 * _tone(RATE / 4, phase=math.pi / 4)
    tone *= torch.hann_window(tone.shape[-1])  # no edges, which ring
    assert 20 * math.log10(float(tone.abs().max())) == pytest.approx(-9.03, abs=0.01)
    # Of a maximum between samples, oversampling to 192 kHz misses at most 1 - cos(pi / 16).
    assert -6.021 + 20 * math.log10(math.cos(math.pi / 16)) - 0.01 < true_peak(tone, RATE) < -6.01
    assert true_peak(torch.zeros(2, 100), RATE) == -math.inf
    assert true_peak(torch.zeros(2, 0), RATE) == -math.inf


def test_loudness_is_one_gain() -> None:
    tone = 0.1 * _tone(997)
    audio, facts = Finishing(loudness=-16).apply(tone, RATE)
    assert integrated_loudness(audio, RATE) == pytest.approx(-16, abs=1e-3)
    assert facts["loudness"] == pytest.approx(-16, abs=1e-3)
    assert torch.allclose(audio, tone * 10 ** (facts["gain_db"] / 20), rtol=1e-3)


def test_the_true_peak_goes_before_loudness(caplog) -> None:
    tone = 0.1 * _tone(997)
    audio, facts = Finishing(loudness=-3, true_peak=-1).apply(tone, RATE, "here")
    assert facts["true_peak"] == pytest.approx(-1, abs=1e-3)
    assert integrated_loudness(audio, RATE) < -3
    assert "dB quieter than asked for, to keep its true peak" in caplog.text
    # Alone, it turns down what is above it, and nothing else.
    quiet, facts = Finishing(true_peak=-1).apply(tone, RATE)
    assert facts["gain_db"] == 0
    assert torch.equal(quiet, tone)
    loud, facts = Finishing(true_peak=-1).apply(20 * tone, RATE)
    assert true_peak(loud, RATE) == pytest.approx(-1, abs=1e-3)


def test_silence_goes_at_both_ends_and_not_between() -> None:
    tone = _tone(997, 0.1)
    silence = torch.full((1, RATE // 2), 1e-5)
    audio, facts = Finishing(trim_silence=-60).apply(
        torch.cat([silence, tone, silence, tone, silence], -1), RATE
    )
    margin = round(0.005 * RATE)
    assert abs(audio.shape[-1] - (2 * tone.shape[-1] + silence.shape[-1] + 2 * margin)) <= 2
    assert facts["trimmed_seconds"] == pytest.approx([0.495, 0.495], abs=1e-3)


def test_silent_clips_stay_as_they_are(caplog) -> None:
    silent = torch.zeros(2, 1000)
    audio, facts = Finishing(trim_silence=-60, loudness=-16, true_peak=-1).apply(silent, RATE, "here")
    assert torch.equal(audio, silent)
    assert facts == {"gain_db": 0.0, "loudness": None, "true_peak": None}
    assert "here: is silent throughout" in caplog.text
    assert "here: is too quiet to have a loudness" in caplog.text


@pytest.mark.parametrize("values", [{"loudness": 1.0}, {"true_peak": math.nan}, {"trim_silence": 0.0}])
def test_values_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be from"):
        Finishing(**values)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    weights, model_file = tiny.save(tmp_path_factory.mktemp("model"), tiny.config())
    model = ["generate", "--ckpt-path", str(weights), "--model-config", str(model_file), "--device", "cpu"]
    return [*model, "--prompt", "bell", "--steps", "2", "--subtype", "float"]


def test_a_sound_without_its_json_renders_again(clip: list[str], tmp_path: Path, capsys) -> None:
    finishing = ["--loudness", "-20", "--true-peak", "-2", "--trim-silence", "-40"]
    assert main([*clip, "--out", str(tmp_path / "one"), *finishing]) == 0
    (first,) = (tmp_path / "one").glob("*.wav")
    output = json.loads(first.with_suffix(".json").read_text())["output"]
    assert output["loudness"] < -19.99
    assert output["true_peak"] < -1.99
    assert max(output["loudness"] + 20, output["true_peak"] + 2) == pytest.approx(0, abs=0.01)
    assert read_recipe(first) == read_recipe(first.with_suffix(".json"))
    first.with_suffix(".json").unlink()
    again = ["generate", "--from-json", str(first), "--out", str(tmp_path / "two"), "--subtype", "float"]
    assert main([*again, "--device", "cpu"]) == 0
    (second,) = (tmp_path / "two").glob("*.wav")
    assert torch.equal(read_audio(first)[0], read_audio(second)[0])
    assert main([*again, "--loudness", "-10"]) == 2
    assert "--from-json already sets --loudness" in capsys.readouterr().err


def test_finishing_is_part_of_the_recipe_and_nothing_is_as_before(clip: list[str], tmp_path: Path) -> None:
    for options in ([], ["--loudness", "-20"]):
        assert main([*clip, "--out", str(tmp_path), *options]) == 0
    plain, loud = sorted(tmp_path.glob("*.json"), key=lambda p: "finishing" in p.read_text())
    assert "finishing" not in json.loads(plain.read_text())["recipe"]
    assert json.loads(loud.read_text())["recipe"]["finishing"]["loudness"] == -20
    assert plain.stem != loud.stem


@pytest.mark.parametrize(
    ("suffix", "rate", "written"),
    [
        ("wav", 1000, 1000),
        ("opus", 44100, 48000),
        ("opus", 22050, 24000),
        ("opus", 96000, 48000),
        ("mp3", 44100, 44100),
        ("mp3", 96000, 48000),
    ],
)
def test_rates_of_formats(suffix: str, rate: int, written: int) -> None:
    assert rate_in(suffix, rate) == written


def test_opus_is_written_at_a_rate_that_it_has(clip: list[str], tmp_path: Path) -> None:
    options = ["--format", "opus", "--out", str(tmp_path)]
    assert main([*clip[:-2], *options]) == 0
    (sound,) = tmp_path.glob("*.opus")
    output = json.loads(sound.with_suffix(".json").read_text())["output"]
    assert (output["sample_rate"], output["samples"]) == (8000, 640 * 8)
    assert read_recipe(sound).sample_size == 640


@pytest.mark.parametrize("content", [None, b"RIFF"])
def test_a_sound_without_a_recipe_is_one_sentence(content: bytes | None, tmp_path: Path, capsys) -> None:
    path = tmp_path / "a.wav"
    if content is not None:
        path.write_bytes(content)
    assert main(["generate", "--from-json", str(path)]) == 2
    assert f"error: {path}: " in capsys.readouterr().err


def test_a_sound_of_someone_else_is_not_replaced(clip: list[str], tmp_path: Path, capsys) -> None:
    named = [*clip, "--out", str(tmp_path), "--name", "{prompt}"]
    (tmp_path / "bell.wav").write_bytes(b"mine")
    assert main(named) == 2
    assert "bell.wav: is of another clip" in capsys.readouterr().err
    assert (tmp_path / "bell.wav").read_bytes() == b"mine"
    (tmp_path / "bell.wav").unlink()
    assert main(named) == 0
    # As if killed between the two files of a clip.
    (tmp_path / "bell.json").unlink()
    assert main(named) == 0
    assert (tmp_path / "bell.json").is_file()
