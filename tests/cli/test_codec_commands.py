"""encode, decode and reconstruct from the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.audio.io import read_audio
from stable_audio.cli import main
from stable_audio.data.latents import shards
from stable_audio.inference.codec import sharing
from tests.data.folders import RATE, make_folder, ramp

PATCHED = {
    "model_type": "diffusion_uncond",
    "sample_rate": RATE,
    "sample_size": 800,
    "audio_channels": 1,
    "model": {
        "type": "dit",
        "config": {"in_channels": 8, "embed_dim": 8, "depth": 1, "num_heads": 1},
        "pretransform": {"type": "patched", "config": {"channels": 1, "patch_size": 8}},
    },
    "training": {"learning_rate": 1e-3},
}
AUTOENCODER = {
    "model_type": "autoencoder",
    "sample_rate": RATE,
    "sample_size": 800,
    "audio_channels": 1,
    "model": {
        "encoder": {
            "type": "oobleck",
            "config": {
                "in_channels": 1,
                "channels": 4,
                "latent_dim": 8,
                "c_mults": [1, 2],
                "strides": [2, 4],
            },
        },
        "decoder": {
            "type": "oobleck",
            "config": {
                "out_channels": 1,
                "channels": 4,
                "latent_dim": 4,
                "c_mults": [1, 2],
                "strides": [2, 4],
            },
        },
        "bottleneck": {"type": "vae"},
        "latent_dim": 4,
        "downsampling_ratio": 8,
        "io_channels": 1,
    },
}


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, str]:
    """Arguments: model file, folder of sounds, output folder."""
    (tmp_path / "patched.json").write_text(json.dumps(PATCHED))
    (tmp_path / "autoencoder.json").write_text(json.dumps(AUTOENCODER))
    make_folder(tmp_path / "in", {"a.wav": 2003, "b/c.wav": 100})
    names = ("patched.json", "autoencoder.json", "in", "out", "back")
    return {name.split(".")[0]: str(tmp_path / name) for name in names}


def test_there_and_back(paths: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--model-config", paths["patched"], "--device", "cpu"]
    assert main(["encode", paths["in"], "-o", paths["out"], "--num-workers", "0", *common]) == 0
    assert "2 clips" in capsys.readouterr().out
    assert main(["decode", paths["out"], "-o", paths["back"], "--format", "flac", *common]) == 0
    assert "2 files written" in capsys.readouterr().out
    assert torch.equal(read_audio(Path(paths["back"]) / "audio" / "b" / "c.flac")[0], ramp(100))


def test_an_unknown_format_is_named_before_a_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["decode", str(tmp_path), "-o", str(tmp_path / "out"), "--model-config", "none.json"]
    assert main([*command, "--format", "foo"]) == 2
    assert "format 'foo' is unknown; usual ones are aif, " in capsys.readouterr().err
    assert main([*command, "--format", "m4a"]) == 2
    assert "none.json" in capsys.readouterr().err


def test_untrained_weights_are_refused(paths: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["encode", paths["in"], "-o", paths["out"], "--model-config", paths["autoencoder"]]
    assert main(arguments) == 2
    assert "no weights were given" in capsys.readouterr().err
    assert not Path(paths["out"]).exists()
    assert main([*arguments, "--allow-untrained-pretransform", "--num-workers", "0"]) == 0


def test_reconstruct(paths: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--model-config", paths["patched"], "-o", paths["back"]]
    assert main(["reconstruct", paths["in"], *common, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["measured"], found["rejected"]) == (2, 0)
    assert found["stft_distance"] == pytest.approx(0.0, abs=1e-6)
    assert all(item["si_sdr"] is None or item["si_sdr"] > 60 for item in found["items"])
    assert json.loads((Path(paths["back"]) / "figures.json").read_text()) == found
    assert (Path(paths["back"]) / "audio" / "a.wav").exists()
    untrained = ["--model-config", paths["autoencoder"], "--allow-untrained-pretransform"]
    assert main(["reconstruct", paths["in"], *untrained]) == 0
    assert "mean of 2" in capsys.readouterr().out


def test_fewer_quantizers(paths: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quantised = json.loads(json.dumps(AUTOENCODER))
    books = {"input_dim": 4, "n_codebooks": 3, "codebook_size": 16, "codebook_dim": 2}
    quantised["model"]["bottleneck"] = {"type": "dac_rvq", "config": books}
    quantised["model"]["encoder"]["config"]["latent_dim"] = 4
    file = tmp_path / "quantised.json"
    file.write_text(json.dumps(quantised))
    common = ["reconstruct", paths["in"], "--allow-untrained-pretransform", "--json"]
    figures = []
    for some in ([], ["--quantizers", "3"], ["--quantizers", "1"]):
        torch.manual_seed(0)
        assert main([*common, "--model-config", str(file), *some]) == 0
        figures.append(json.loads(capsys.readouterr().out)["stft_distance"])
    assert figures[1] == pytest.approx(figures[0], rel=1e-4), "all quantizers are what is used anyway"
    assert abs(figures[2] - figures[0]) > 1e-3
    assert main([*common, "--model-config", str(file), "--quantizers", "4"]) == 2
    assert "a frame has 3 tokens" in capsys.readouterr().err
    assert main([*common, "--model-config", paths["autoencoder"], "--quantizers", "1"]) == 2
    assert "are not quantised" in capsys.readouterr().err


@pytest.mark.slow
def test_several_processes(paths: dict[str, str]) -> None:
    arguments = ["encode", paths["in"], "-o", paths["out"], "--model-config", paths["patched"]]
    arguments += ["--devices", "2", "--device", "cpu", "--sample-size", "400", "--num-workers", "0"]
    command = [sys.executable, "-m", "stable_audio", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "7 clips" in done.stdout
    assert {s.path.split("/")[-1][:3] for s in shards(paths["out"])} == {"000", "001"}


@pytest.mark.slow
def test_the_manifest_is_finished_without_the_codec(
    paths: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = sharing.EncodeJob(source=paths["in"], folder=paths["out"], model_config=paths["patched"])
    manifest = job.encode("cpu")
    assert manifest["complete"]
    monkeypatch.setattr(sharing, "load_codec", None)
    assert job.finish() == manifest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signal_", "devices"),
    [
        (signal.SIGKILL, "1"),
        (signal.SIGTERM, "1"),
        (signal.SIGTERM, "2"),
    ],
)
def test_a_killed_run_goes_on(paths: dict[str, str], signal_: signal.Signals, devices: str) -> None:
    make_folder(Path(paths["in"]), {f"{i:03d}.wav": 4000 for i in range(300)})
    arguments = ["encode", paths["in"], "-o", paths["out"], "--model-config", paths["patched"]]
    arguments += ["--items-per-shard", "5", "--num-workers", "0", "--device", "cpu"]
    command = [sys.executable, "-m", "stable_audio", *arguments, "--devices", devices]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        folder = Path(paths["out"]) / "shards"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and len(list(folder.glob("0*.safetensors"))) < 2:
            time.sleep(0.01)
        process.send_signal(signal_)
    finished = {s.path: os.stat(s.path).st_mtime_ns for s in shards(paths["out"])}
    assert 2 <= len(finished) < 61
    assert process.returncode == (-signal.SIGKILL if signal_ == signal.SIGKILL else 143)
    assert main(arguments) == 0
    assert {path: os.stat(path).st_mtime_ns for path in finished} == finished
    names = [r.part for s in shards(paths["out"]) for r in s.records]
    assert len(names) == len(set(names)) == 302


def test_files_that_cannot_be_measured_are_named(
    paths: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path(paths["in"], "empty.wav").touch()
    arguments = ["reconstruct", paths["in"], "--model-config", paths["patched"], "--json"]
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["measured"], found["rejected"]) == (2, 1)
    assert found["items"][0] == {"part": f"{paths['in']}/empty.wav", "rejected": "is empty (0 bytes)"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "abacus"], "'cuda:1' or 'mps', found 'abacus'"),
        (["--device", "cuda:99"], "device cuda:99: this machine has no such device"),
        (["--sample-size", "1001"], "a multiple of 8 samples, a latent frame, found 1001; use 1000 or 1008"),
        (["--sample-size", "3"], "found 3; use 8"),
    ],
)
def test_arguments_that_cannot_be(
    paths: dict[str, str], capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    common = ["encode", paths["in"], "-o", paths["out"], "--model-config", paths["patched"]]
    assert main([*common, *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--batch-size", "--devices", "--items-per-shard", "--sample-size"])
def test_numbers_below_one(paths: dict[str, str], capsys: pytest.CaptureFixture[str], flag: str) -> None:
    with pytest.raises(SystemExit):
        main(["encode", paths["in"], "-o", paths["out"], flag, "0"])
    assert "a whole number of at least 1, found '0'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist; give a folder"),
        ({"dataset_type": "pre_encoded", "datasets": [{"id": "z", "path": "x"}]}, "describes latents"),
        (
            {"dataset_type": "wds", "pre_encoded": True, "datasets": [{"id": "z", "path": "x"}]},
            "describes latents",
        ),
    ],
)
def test_sources_without_sound(
    paths: dict[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path, content: Any, message: str
) -> None:
    source = tmp_path / "source.json"
    if content is not None:
        source.write_text(json.dumps(content))
    common = ["encode", str(source), "-o", paths["out"], "--model-config", paths["patched"]]
    assert main(common) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_an_error_in_one_of_several_processes_is_a_sentence(paths: dict[str, str]) -> None:
    common = ["encode", paths["in"], "-o", paths["out"], "--model-config", paths["patched"]]
    common += ["--device", "cpu", "--num-workers", "0"]
    assert main([*common, "--sample-size", "400"]) == 0
    command = [sys.executable, "-m", "stable_audio", *common, "--devices", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "error: " in done.stderr
    assert "made with other settings" in done.stderr
    assert "Traceback" not in done.stderr


def test_tasks_of_slurm_share_the_files(
    paths: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["encode", paths["in"], "-o", paths["out"], "--model-config", paths["patched"]]
    arguments += ["--device", "cpu", "--sample-size", "400", "--num-workers", "0"]
    monkeypatch.setenv("SLURM_NTASKS", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("SLURM_PROCID", rank)
        monkeypatch.setenv("SLURM_LOCALID", rank)
        assert main(arguments) == 0
    assert "7 clips" in capsys.readouterr().out
    assert {Path(s.path).name[:3] for s in shards(paths["out"])} == {"000", "001"}
    assert main([*arguments, "--devices", "3"]) == 2
    assert "--devices 3, but SLURM started 2 processes" in capsys.readouterr().err
