"""`~` is the user's own folder, in files, on command lines and in names of files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stable_audio.cli import main
from stable_audio.cli.home import with_home as words_with_home
from stable_audio.config import load_config, load_dataset_config
from stable_audio.config.reading.home import with_home
from tests.config import examples


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    return tmp_path


def test_paths_of_a_dataset_file(home: Path) -> None:
    entry = {"id": "a", "path": "~/a", "manifest": "~/a.csv", "custom_metadata_module": "~/m.py"}
    config = load_dataset_config({"dataset_type": "audio_dir", "datasets": [entry]}).as_dict()
    assert config["datasets"] == [
        {
            "id": "a",
            "path": f"{home}/a",
            "manifest": f"{home}/a.csv",
            "custom_metadata_module": f"{home}/m.py",
        }
    ]
    assert entry["path"] == "~/a"


def test_a_module_for_all_entries(home: Path) -> None:
    data = {
        "dataset_type": "audio_dir",
        "custom_metadata_module": "~/m.py",
        "datasets": [{"id": "a", "path": "a"}],
    }
    assert load_dataset_config(data).as_dict()["datasets"][0]["custom_metadata_module"] == f"{home}/m.py"


def test_paths_of_a_model_file_but_not_its_prompts(home: Path) -> None:
    data = examples.cond()
    data["training"]["demo"]["demo_cond"][0]["prompt"] = "~/a sound like waves"
    data["training"] |= {"teacher_model_ckpt": "~/teacher.ckpt"}
    loaded = load_config(data).as_dict()["training"]
    assert loaded["teacher_model_ckpt"] == f"{home}/teacher.ckpt"
    assert loaded["demo"]["demo_cond"][0]["prompt"] == "~/a sound like waves"


def test_a_file_by_its_name(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "model.json").write_text(json.dumps(examples.cond()))
    assert load_config("~/model.json").as_dict() == examples.cond()
    assert main(["check", "~/model.json", "--dry"]) == 0
    assert "all is well" in capsys.readouterr().out


def test_only_what_begins_with_it(home: Path) -> None:
    assert with_home(["~/a", "a~/b", "~", "~ about", 3, None]) == [
        f"{home}/a",
        "a~/b",
        "~",
        "~ about",
        3,
        None,
    ]


def test_words_of_a_command_line(home: Path) -> None:
    words = ["--ckpt-path=~/a.ckpt", "--out", "~/b", "--prompt", "~/c", "--prompt=~/d", "e=~/f"]
    assert words_with_home(words) == [
        f"--ckpt-path={home}/a.ckpt",
        "--out",
        f"{home}/b",
        "--prompt",
        "~/c",
        "--prompt=~/d",
        "e=~/f",
    ]
