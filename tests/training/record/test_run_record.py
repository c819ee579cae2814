"""`run.json` and `run.html` say how every start of a run ended, and what happened in between."""

from __future__ import annotations

import csv
import errno
import json
import logging
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from stable_audio.incidents import incident
from stable_audio.inference.memory.errors import OutOfMemory
from stable_audio.training.errors import TrainingError
from stable_audio.training.options import RunOptions
from stable_audio.training.record import page as run_page
from stable_audio.training.record import run_record
from stable_audio.training.record.page import write_page
from stable_audio.training.record.run_record import RunRecord
from stable_audio.training.record.start_files import EarlyLog, logged_to
from stable_audio.training.record.surroundings import git_state
from tests.training.building import tiny_config, tiny_run
from tests.training.saving.test_recovery import _damage


def _record(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "run" / "run.json").read_text())
    return content


def _kinds(folder: Path) -> list[str]:
    return [entry["kind"] for entry in _record(folder)["incidents"]]


def test_a_start_says_what_it_ran_on_and_how_it_ended(tmp_path: Path) -> None:
    assert tiny_run(tmp_path, max_steps=2).start() == 0
    (start,) = _record(tmp_path)["starts"]
    assert (start["ended"]["kind"], start["ended"]["step"], start["ended"]["status"]) == ("finished", 2, 0)
    assert start["machine"]["cores"] == os.cpu_count()
    assert start["machines"] == [{"host": start["host"], "processes": 1, **start["machine"]}]
    assert len(start["data"]["names_sha256"]) == 64
    assert start["data"]["clips"] > 1000
    assert start["config_hash"]
    assert _record(tmp_path)["incidents"] == []
    page = (tmp_path / "run" / "run.html").read_text()
    assert "Finished at step 2" in page
    assert page.count("<polyline") >= 2
    assert 'href="last.safetensors"' in page


def test_stops_kills_errors_and_damage_are_recorded(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, max_steps=9, checkpoint_every=1)
    save = run.checkpoints.save

    def stopped(*args: Any, **options: Any) -> None:
        save(*args, **options)
        if run.module.position == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    run.checkpoints.save = stopped  # type: ignore[method-assign]
    assert run.start() == 143
    assert _kinds(tmp_path) == ["signal"]
    step = _record(tmp_path)["starts"][0]["ended"]["step"]
    _damage(tmp_path / "run" / "last.ckpt")

    with EarlyLog() as early:
        again = tiny_run(tmp_path, max_steps=9, recover=True, checkpoint_every=0)
    again.early = early
    again.record.ended = lambda outcome: None  # type: ignore[method-assign]  # as if killed
    train = again.module.training_step

    def fail(*args: Any) -> Any:
        if again.module.position == step + 1:
            raise RuntimeError("a defect")
        return train(*args)

    again.module.training_step = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="a defect"):
        again.start()
    assert _kinds(tmp_path) == ["signal", "damaged checkpoint", "rescued"]

    third = tiny_run(tmp_path, max_steps=9, recover=True, checkpoint_every=1)
    third.module.training_step = lambda *_: (_ for _ in ()).throw(OutOfMemory("too little"))  # type: ignore
    with pytest.raises(OutOfMemory):
        third.start()
    assert _kinds(tmp_path)[3] == "killed"
    last = _record(tmp_path)["starts"][2]["ended"]
    assert (last["kind"], last["error"]) == ("out of memory", "OutOfMemory: too little")
    assert "Ended (out of memory) at step" in (tmp_path / "run" / "run.html").read_text()


def test_a_skipped_step_is_recorded_with_its_files(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, tiny_config(), max_steps=12)
    step = run.module.training_step
    run.module.training_step = (  # type: ignore[method-assign]
        lambda *args: step(*args) * (float("nan") if run.module.position == 10 else 1)
    )
    assert run.start() == 0
    (entry,) = _record(tmp_path)["incidents"]
    assert (entry["kind"], entry["step"], len(entry["files"])) == ("skipped step", 11, 2)
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows if "nan" in row.values()] == [entry["step"]]
    page = (tmp_path / "run" / "run.html").read_text()
    assert entry["files"][0] in page


@pytest.mark.parametrize("workers", [0, 1])
def test_files_that_are_left_out_are_incidents(tmp_path: Path, workers: int) -> None:
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    for name in ("a", "b", "c"):
        soundfile.write(sounds / f"{name}.wav", np.full(2000, 0.5, dtype=np.float32), 4000)
    (sounds / "d.wav").write_bytes(b"RIFF, but no more than that")
    soundfile.write(sounds / "e.wav", np.full(2000, 1e30, dtype=np.float32), 4000, subtype="FLOAT")
    dataset = {"dataset_type": "audio_dir", "datasets": [{"id": "sounds", "path": str(sounds)}]}
    run = tiny_run(tmp_path, dataset=dataset, batch_size=1, max_steps=6, num_workers=workers)
    assert run.start() == 0
    damaged, far = sorted(_record(tmp_path)["incidents"], key=lambda entry: str(entry["file"]))
    assert (damaged["kind"], damaged["file"]) == ("left out", str(sounds / "d.wav"))
    assert (far["kind"], far["file"]) == ("left out", str(sounds / "e.wav"))
    assert far["text"].startswith(f"left out: {sounds / 'e.wav'}: damaged: it holds values up to 1e+30")


def test_what_could_not_be_written_is_written_with_the_next_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    record = RunRecord(tmp_path / "run.json")
    record.started({"started": "now"})

    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(run_record, "atomic_write", full)
        with record.listening():
            log = logging.getLogger("stable_audio.test")
            for n in range(2):
                log.warning("it is %d", n, extra=incident("trouble", step=n))
            log.warning("no incident")
    assert caplog.text.count("the record of the run was not written") == 1
    record.ended({"kind": "finished"})
    content = json.loads((tmp_path / "run.json").read_text())
    assert [(e["kind"], e["text"], e["step"]) for e in content["incidents"]] == [
        ("trouble", "it is 0", 0),
        ("trouble", "it is 1", 1),
    ]
    assert content["starts"][0]["ended"]["kind"] == "finished"


def test_the_record_is_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And has the first incidents and the newest ones, over several starts."""
    for module in (run_record, run_page):
        monkeypatch.setattr(module, "FIRST_INCIDENTS", 2)
    monkeypatch.setattr(run_record, "LAST_INCIDENTS", 3)
    for n in range(7):
        RunRecord(tmp_path / "run.json").incident({"kind": "x", "text": f"<b>{n}</b>"})
    content = json.loads((tmp_path / "run.json").read_text())
    assert [entry["text"][3] for entry in content["incidents"]] == ["0", "1", "4", "5", "6"]
    assert content["further_incidents"] == 2
    write_page(tmp_path)
    page = (tmp_path / "run.html").read_text()
    first, between, later = (page.index(text) for text in ("&gt;1&lt;", "2 more incidents", "&gt;4&lt;"))
    assert first < between < later


def test_the_log_and_the_page_are_utf8_whatever_they_tell(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"r\xe9")
    record = RunRecord(folder / "run.json")
    with logged_to(folder, 0):
        logging.getLogger("stable_audio.x").error("%s, half \ud800", folder)
    record.started({"command": "train caf\udce9"})
    record.incident({"kind": "x", "text": "half \ud800"})
    write_page(folder)
    assert (folder / "log.txt").read_text(encoding="utf-8").endswith("r\\udce9, half \\ud800\n")
    page = (folder / "run.html").read_text(encoding="utf-8")
    assert all(text in page for text in ("<h1>r\\udce9</h1>", "train caf\\udce9", "half \\ud800"))


@pytest.mark.parametrize("settings", [{"name": "r\udce9"}, {"project": "r\udce9"}, {"save_dir": "r\udce9"}])
def test_a_run_whose_weights_could_not_be_written_is_refused(settings: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="the byte E9, which is not UTF-8"):
        RunOptions(**settings)


def test_only_the_first_process_records(tmp_path: Path) -> None:
    record = RunRecord(tmp_path / "run.json", rank=1)
    record.started({})
    record.ended({})
    assert not list(tmp_path.iterdir())


def test_the_state_of_the_code_is_that_of_git(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None or git_state(tmp_path)["repository"] != str(tmp_path)  # type: ignore
    import subprocess

    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    git("init", "-b", "main")
    (tmp_path / "a.py").write_text("1")
    git("add", "a.py")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-m", "a")
    state = git_state(tmp_path)
    assert state is not None
    assert (state["branch"], state["changed"], len(state["commit"])) == ("main", [], 40)
    (tmp_path / "a.py").write_text("2")
    state = git_state(tmp_path)
    assert state is not None
    assert (state["changed"], state["number_of_changed"]) == (["a.py"], 1)


def test_an_error_is_the_reason(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, max_steps=2)
    run.module.training_step = lambda *_: (_ for _ in ()).throw(TrainingError("<no>"))  # type: ignore
    with pytest.raises(TrainingError):
        run.start()
    assert _record(tmp_path)["starts"][0]["ended"]["error"] == "TrainingError: <no>"
    assert "&lt;no&gt;" in (tmp_path / "run" / "run.html").read_text()
