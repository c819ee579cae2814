"""Configs of the package by name: listed, copied, used, and there in an installed wheel."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stable_audio.cli import main
from stable_audio.config import ConfigError, load_config, load_dataset_config
from stable_audio.inference.rendering.job_lines import read_jobs
from stable_audio.shipped import KINDS, shipped, shipped_file
from stable_audio.stored.shipped_configs import copy_config

ROOT = Path(__file__).parents[1]


def test_every_file_is_listed_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs", "--json"]) == 0
    listing = json.loads(capsys.readouterr().out)
    files = {
        p.relative_to(ROOT).as_posix() for k in KINDS.values() for p in ROOT.glob(f"{k.folder}/**/*.json*")
    }
    files = {f for f in files if not f.endswith("schema.json")}
    assert {f"{KINDS[k].folder}/{n}{KINDS[k].suffix}" for k, part in listing.items() for n in part} == files
    assert all(line and "\n" not in line for part in listing.values() for line in part.values())
    assert "47.6 s" in listing["model"]["stable_audio/stable_audio_open_1_0"]
    assert main(["configs"]) == 0
    assert "stable_audio/stable_audio_open_1_0" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["quickstart/latent", "latent", "latent.json", "model_configs/quickstart/latent.json"]
)
def test_names_work_where_files_do(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = load_config(ROOT / "model_configs" / "quickstart" / "latent.json")
    assert load_config(name).as_dict() == expected.as_dict()


def test_names_of_datasets_and_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_dataset_config("synthetic").dataset_type == "synthetic"
    assert len(read_jobs("quickstart/prompts")) == 16
    assert main(["check", "--dry", "quickstart/quickstart", "synthetic"]) == 0
    assert "all is well" in capsys.readouterr().out


def test_a_file_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("synthetic").write_text('{"dataset_type": "synthetic", "num_clips": 3}')
    assert load_dataset_config("synthetic").num_clips == 3


def test_no_such_name_has_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'synthetic'"):
        load_dataset_config("sinthetic")
    with pytest.raises(ConfigError, match="stable-audio configs"):
        load_config("qqqqqqqq")
    assert shipped_file("latent", "dataset") is None


def test_a_copy_is_complete_and_replaces_nothing(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["configs", "--copy", "stable_audio_open_1_0"]) == 0
    copied = load_config(tmp_path / "stable_audio_open_1_0.json").as_dict()
    original = load_config("stable_audio_open_1_0").as_dict()
    original.pop("$schema")
    assert copied == original
    assert main(["configs", "--copy", "stable_audio_open_1_0"]) == 2
    assert "already exists" in capsys.readouterr().err
    assert main(["configs", "--copy", "latent", "--out", "a/mine.json"]) == 0
    assert load_config("a/mine.json").model_type == "diffusion_cond"
    assert main(["configs", "--copy", "denoising"]) == 2
    assert "examples/denoising or dataset_configs/denoising" in capsys.readouterr().err
    assert main(["configs", "--copy", "dataset_configs/denoising"]) == 0
    assert main(["configs", "--copy", "nothing"]) == 2


@pytest.mark.slow
def test_an_installed_wheel_has_them(tmp_path: Path) -> None:
    source, wheels, fresh = tmp_path / "source", tmp_path / "wheels", tmp_path / "fresh"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("stable_audio", *{kind.folder for kind in KINDS.values()}):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w", str(wheels), str(source)]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = wheels.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(fresh)], check=True)
    install = ["--python", str(fresh), "install", "--no-deps", "--no-index", "--quiet", str(wheel)]
    subprocess.run([*pip, *install], check=True)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def run(*arguments: str) -> str:
        command = [str(fresh / "bin" / "stable-audio"), *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
        ).stdout

    listing = json.loads(run("configs", "--json"))
    assert {kind: list(part) for kind, part in listing.items()} == {k: list(shipped(k)) for k in KINDS}
    run("configs", "--copy", "quickstart/latent")
    copied = json.loads((tmp_path / "latent.json").read_text())
    original = json.loads((ROOT / "model_configs/quickstart/latent.json").read_text())
    original.pop("$schema")
    assert copied == original


def test_weights_that_a_config_names_are_copied_beside_it(tmp_path: Path) -> None:
    copy = copy_config("quickstart/quickstart", tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["codec.safetensors", "quickstart.json"]
    original = ROOT / "model_configs/quickstart/codec.safetensors"
    assert (tmp_path / "codec.safetensors").read_bytes() == original.read_bytes()
    assert (
        load_config(copy).model.pretransform.hash
        == load_config("quickstart/quickstart").model.pretransform.hash
    )
    copy.unlink()
    with pytest.raises(FileExistsError, match=r"codec\.safetensors already exists"):
        copy_config("quickstart/quickstart", tmp_path)
