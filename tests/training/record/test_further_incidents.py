"""The record of a run has what its further processes tell, also of those that were killed."""

from __future__ import annotations

import json
import logging
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from stable_audio.incidents import incident
from stable_audio.training.record import further_incidents
from stable_audio.training.record.page import write_page
from stable_audio.training.record.run_record import RunRecord
from tests.training.building import tiny_run
from tests.training.worlds import ended_world, run_world

log = logging.getLogger("stable_audio.test")


def _told(folder: Path) -> list[tuple[int, str]]:
    incidents = json.loads((folder / "run.json").read_text())["incidents"]
    return [(entry.get("process", 0), entry["text"]) for entry in incidents]


def _tell(folder: Path, rank: int, *texts: str, **details: Any) -> None:
    with RunRecord(folder / "run.json", rank=rank).listening():
        for text in texts:
            log.warning("%s", text, extra=incident("trouble", **details))


def test_what_further_processes_tell_is_taken_over_once(tmp_path: Path) -> None:
    record = RunRecord(tmp_path / "run.json")
    record.started({"started": "now"})
    record.incident({"kind": "trouble", "text": "of all"})
    _tell(tmp_path, 10, "of all", "of two")
    _tell(tmp_path, 2, "of two", "of one")
    assert record.gather()
    assert not record.gather()
    _tell(tmp_path, 2, "later")
    assert record.gather()
    assert _told(tmp_path) == [(0, "of all"), (2, "of two"), (2, "of one"), (2, "later")]
    write_page(tmp_path)
    assert "process 2: later" in (tmp_path / "run.html").read_text()


def test_a_step_is_told_of_once(tmp_path: Path) -> None:
    """By all processes, each with the loss that it has."""
    record = RunRecord(tmp_path / "run.json")
    _tell(tmp_path, 0, "loss 1", step=7)
    _tell(tmp_path, 1, "loss 2", step=7)
    _tell(tmp_path, 1, "loss 3", step=8)
    record.gather()
    assert _told(tmp_path) == [(0, "loss 1"), (1, "loss 3")]


def test_the_next_start_takes_over_what_a_killed_one_has_left(tmp_path: Path) -> None:
    RunRecord(tmp_path / "run.json").started({"started": "then"})
    _tell(tmp_path, 1, "before the kill")
    with open(tmp_path / "incidents.1.jsonl", "a") as file:
        file.write('{"kind": "trouble", "te')  # killed while it wrote
    record = RunRecord(tmp_path / "run.json")
    record.started({"started": "now"})
    _tell(tmp_path, 1, "after it")
    record.ended({})
    assert [text for process, text in _told(tmp_path) if process] == ["before the kill", "after it"]


def test_damaged_lines_and_foreign_files_cost_nothing_else(tmp_path: Path) -> None:
    record = RunRecord(tmp_path / "run.json")
    (tmp_path / "incidents.1.jsonl").write_bytes(b'\0\0\xff\n[1]\n{"kind": 1}\n{"kind": "k", "text": "t"}\n')
    (tmp_path / "incidents.x.jsonl").write_text('{"kind": "k", "text": "foreign"}\n')
    (tmp_path / "incidents.2.jsonl").mkdir()
    record.gather()
    assert _told(tmp_path) == [(1, "t")]


def test_a_process_writes_a_bounded_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(further_incidents, "MOST_LINES", 3)
    _tell(tmp_path, 1, *map(str, range(9)))
    assert (tmp_path / "incidents.1.jsonl").read_text().count("trouble") == 3
    record = RunRecord(tmp_path / "run.json")
    record.gather()
    assert [text for _, text in _told(tmp_path)] == ["0", "1", "2"]


def _sounds(folder: Path) -> dict[str, Any]:
    """Sixteen files, every second one of which is damaged."""
    folder.mkdir()
    for n in range(16):
        path = folder / f"{n:02d}.wav"
        if n % 2:
            path.write_bytes(b"RIFF")
        else:
            soundfile.write(path, 0.1 * np.sin(np.arange(2000)), 4000)
    return {"dataset_type": "audio_dir", "datasets": [{"id": "s", "path": str(folder)}]}


def _options(**more: Any) -> dict[str, Any]:
    return {"devices": "auto", "batch_size": 2, "max_steps": 4, "demos": False, **more}


def _train(folder: Path, dataset: dict[str, Any]) -> None:
    assert tiny_run(folder, dataset=dataset, **_options()).start() == 0


def _named(folder: Path) -> set[str]:
    record = json.loads((folder / "run" / "run.json").read_text())
    return {Path(entry["file"]).name for entry in record["incidents"] if entry["kind"] == "left out"}


def _in_logs(folder: Path) -> set[str]:
    """What the logs of all processes say was left out."""
    text = "".join(path.read_text() for path in (folder / "run").glob("log*.txt"))
    return {f"{n:02d}.wav" for n in range(16) if f"{n:02d}.wav: " in text}


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no torch.distributed")
def test_files_that_any_process_leaves_out_are_in_the_record_and_on_the_page(tmp_path: Path) -> None:
    run_world(2, _train, tmp_path, _sounds(tmp_path / "sounds"))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    others = [entry for entry in record["incidents"] if entry.get("process") == 1]
    assert others  # the first process has met some of the damaged files, and the other one the others
    assert _named(tmp_path) == _in_logs(tmp_path)
    page = (tmp_path / "run" / "run.html").read_text()
    assert all(entry["file"] in page for entry in others)


def _killed(folder: Path, dataset: dict[str, Any]) -> None:
    run = tiny_run(folder, dataset=dataset, **_options(max_steps=50, checkpoint_every=3))
    end_batch = run.module.end_batch

    def end(*, stepped: bool) -> None:
        end_batch(stepped=stepped)
        if run.module.position == 5:
            run.io.writer.wait()
            os.kill(os.getpid(), signal.SIGKILL)

    run.module.end_batch = end  # type: ignore[method-assign]
    run.start()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no torch.distributed")
def test_a_run_that_is_killed_has_told_with_its_last_checkpoint(tmp_path: Path) -> None:
    dataset = _sounds(tmp_path / "sounds")
    statuses, _ = ended_world(2, _killed, tmp_path, dataset)
    assert -signal.SIGKILL in statuses
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert any(entry.get("process") == 1 for entry in record["incidents"])
    RunRecord(tmp_path / "run" / "run.json").started({"started": "now"})
    assert _named(tmp_path) == _in_logs(tmp_path)
