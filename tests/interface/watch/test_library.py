"""The runs of a folder: real ones, damaged ones, those that come and go."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from stable_audio.interface.watch import answers
from stable_audio.interface.watch.configs import differences, settings_of
from stable_audio.interface.watch.library import Library
from tests.training.building import demo_section, tiny_config, tiny_run


def _run(folder: Path, losses: int = 3, *, record: str | None = '{"starts": []}') -> Path:
    folder.mkdir(parents=True)
    lines = "".join(f"{n},{1 / n:.6g},0.1\r\n" for n in range(1, losses + 1))
    (folder / "metrics.csv").write_text("step,train/loss,model/loss_all_0.5\r\n" + lines, newline="")
    if record is not None:
        (folder / "run.json").write_text(record)
    return folder


def told_kinds(run: Path) -> list[str]:
    return [entry["kind"] for entry in json.loads((run / "run.json").read_text())["incidents"]]


def _names(library: Library) -> list[str]:
    library.refresh()
    return sorted(summary["name"] for summary in library.summaries())


def test_a_real_run(tmp_path: Path) -> None:
    config = tiny_config(demo=demo_section())
    assert tiny_run(tmp_path, config, max_steps=4, name="first").start() == 0
    library = Library([tmp_path])
    (told,) = answers.runs(library)["runs"]
    assert (told["name"], told["state"], told["step"], told["max_steps"]) == ("first", "finished", 4, 4)
    assert told["complete"]
    own = answers.run(library, "first")
    assert own["levels"]
    assert set(own["levels"]) == {c for c in own["series"] if c.startswith("model/loss_all_")}
    titles = {chart["title"]: chart["columns"] for chart in own["charts"]}
    assert titles["loss"] == ["train/loss"]
    assert titles["learning rate"] == ["train/lr"]
    assert titles["gradient norm"] == ["train/grad_norm"]
    assert own["series"]["train/loss"]["steps"] == [1, 2, 3, 4]
    assert answers.demos(library, "first") == {"steps": [2, 4]}
    assert own["start"]["process"] == os.getpid()
    assert "clipped, the peak is" in own["log"]
    json.dumps(own, allow_nan=False)


def test_runs_that_end_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny_run(tmp_path, tiny_config(), max_steps=2)

    def fails() -> None:
        raise RuntimeError("no more")

    monkeypatch.setattr(run.logger, "close", fails)
    with pytest.raises(RuntimeError):
        run.start()
    library = Library([tmp_path])
    (told,) = answers.runs(library)["runs"]
    assert (told["state"], told["told"]) == ("failed", "RuntimeError: no more")
    monkeypatch.undo()
    again = tiny_run(tmp_path, tiny_config(), max_steps=4, recover=True)
    again.stop.signal = 15
    assert again.start() == 143
    (told,) = answers.runs(library)["runs"]
    assert (told["state"], told["told"]) == ("stopped", "it was stopped at step 3")
    assert [entry["kind"] for entry in answers.run(library, "run")["incidents"]] == told_kinds(
        tmp_path / "run"
    )
    starts = json.loads((tmp_path / "run" / "run.json").read_text())["starts"]
    assert [start["ended"]["step"] for start in starts] == [2, 3]


def test_runs_come_go_and_lie_anywhere(tmp_path: Path) -> None:
    _run(tmp_path / "a")
    _run(tmp_path / "deep" / "er" / "b")
    _run(tmp_path / "a" / "checkpoints" / "no")  # nothing is looked for in a run
    _run(tmp_path / ".hidden" / "c")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x.wav").touch()
    library = Library([tmp_path])
    assert _names(library) == ["a", "deep/er/b"]
    shutil.rmtree(tmp_path / "a")
    _run(tmp_path / "z")
    assert _names(library) == ["deep/er/b", "z"]
    assert _names(Library([tmp_path / "z"])) == ["z"]
    # A browser can ask for the name of a run whose folder is not in UTF-8.
    _run(tmp_path / os.fsdecode(b"caf\xe9"))
    library = Library([tmp_path])
    assert _names(library) == ["caf\\udce9", "deep/er/b", "z"]
    assert library.folder("caf\\udce9") == tmp_path / "caf\udce9"
    shutil.rmtree(tmp_path / "caf\udce9")
    # Each run once, and under a name of its own.
    _run(tmp_path / "other" / "z")
    assert _names(Library([tmp_path / "deep", tmp_path / "other", tmp_path, tmp_path / "z"])) == [
        "er/b",
        f"{tmp_path.name}/z",
        "z",
    ]
    assert _names(Library([tmp_path / "nothing"])) == []
    with pytest.raises(KeyError):
        answers.run(library, "a")
    both = Library([tmp_path / "other", tmp_path])
    both.refresh()
    assert both.folder("z") == tmp_path / "other" / "z"
    shutil.rmtree(tmp_path / "other")
    both.refresh()
    assert both.folder("z") == tmp_path / "z"


@pytest.mark.parametrize(
    "record", [None, "", "{", '{"starts": 1}', '{"incidents": [3], "starts": [3]}', "\0" * 40]
)
def test_a_damaged_record_costs_the_record_alone(record: str | None, tmp_path: Path) -> None:
    _run(tmp_path / "a", record=record)
    library = Library([tmp_path])
    (told,) = answers.runs(library)["runs"]
    assert (told["step"], told["max_steps"], told["started"], told["state"]) == (3, None, None, "running")
    assert answers.run(library, "a")["start"] == {}


def test_incidents_that_the_record_has_only_counted_count(tmp_path: Path) -> None:
    _run(tmp_path / "a", record='{"incidents": [{}], "starts": [], "further_incidents": 7}')
    assert answers.runs(Library([tmp_path]))["runs"][0]["incidents"] == 8


def test_what_a_running_run_adds_is_seen(tmp_path: Path) -> None:
    folder = _run(tmp_path / "a")
    library = Library([tmp_path])
    (before,) = answers.runs(library)["runs"]
    (same,) = answers.runs(library)["runs"]
    assert same["changes"] == before["changes"]
    with open(folder / "metrics.csv", "ab") as file:
        file.write(b"4,0.2,\r\n5,0.")
    (after,) = answers.runs(library)["runs"]
    assert (after["step"], after["changes"] > before["changes"]) == (4, True)
    assert answers.run(library, "a")["series"]["train/loss"]["mean"][-1] == 0.2


def test_a_clock_of_another_machine_is_no_sign_of_death(tmp_path: Path) -> None:
    folder = _run(tmp_path / "a")
    for path in folder.iterdir():
        os.utime(path, (time.time() - 1e6, time.time() - 1e6))
    library = Library([tmp_path])
    assert answers.runs(library)["runs"][0]["state"] == "died"
    with open(folder / "metrics.csv", "ab") as file:
        file.write(b"4,0.2,\r\n")
    os.utime(folder / "metrics.csv", (time.time() - 1e6 + 9, time.time() - 1e6 + 9))
    assert answers.runs(library)["runs"][0]["state"] == "running"


def test_reading_takes_no_longer_than_it_may(tmp_path: Path) -> None:
    for name in "abc":
        _run(tmp_path / name)
    library = Library([tmp_path])
    assert not library.refresh(seconds=0.0)
    rough = library.summaries()
    assert [run["step"] for run in rough] == [3, 3, 3]
    assert not any(run["complete"] for run in rough)
    assert library.refresh()
    assert all(run["complete"] for run in library.summaries())


def test_columns_by_group(tmp_path: Path) -> None:
    columns = [
        "train/loss",
        "speed/time_forward",
        "speed/time_data",
        "speed/mfu",
        "something/new",
        "val/avg_loss",
    ]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "metrics.csv").write_text(f"step,{','.join(columns)}\n1,1,2,3,4,5,6\n")
    library = Library([tmp_path])
    library.refresh()
    own = answers.run(library, "a")
    charts = {chart["title"]: chart["columns"] for chart in own["charts"]}
    assert charts["seconds of a step"] == ["speed/time_forward", "speed/time_data"]
    assert charts["validation"] == ["val/avg_loss"]
    assert own["others"] == ["something/new"]
    assert sorted([c for chart in own["charts"] for c in chart["columns"]] + own["others"]) == sorted(columns)


def test_differences() -> None:
    first = {"a": 1, "b": {"c": [1, 2], "same": None}, "only": True}
    second = {"a": 1.0, "b": {"c": [1, 3, 4], "same": None}, "new": None}
    assert list(differences(first, second)) == [
        {"path": "a", "first": 1, "second": 1.0},
        {"path": "b.c[1]", "first": 2, "second": 3},
        {"path": "b.c[2]", "second": 4},
        {"path": "only", "first": True},
        {"path": "new", "second": None},
    ]
    assert list(differences({"a": True}, {"a": 1})) == [{"path": "a", "first": True, "second": 1}]


def test_files_of_two_runs_are_compared(tmp_path: Path) -> None:
    for name, rate, record in (("a", 1e-3, '{"starts": [{"options": {"seed": 1}}]}'), ("b", 2e-3, "{")):
        folder = _run(tmp_path / name, record=record)
        (folder / "model.json").write_text(json.dumps({"training": {"learning_rate": rate}}))
    (tmp_path / "b" / "dataset.json").write_text("[")
    library = Library([tmp_path])
    library.refresh()
    told = {entry["path"]: entry for entry in answers.compared(library, "a", "b")["differences"]}
    assert told["model.json.training.learning_rate"]["second"] == 2e-3
    assert told["options"] == {"path": "options", "first": {"seed": 1}}
    assert "is not JSON" in told["dataset.json"]["second"]
    assert settings_of(tmp_path / "none") == {}


def test_a_run_does_not_change_while_it_is_answered(tmp_path: Path) -> None:
    run = _run(tmp_path / "a")
    library = Library([tmp_path])
    library.refresh()
    other_tab = threading.Thread(target=library.refresh)
    with library.run("a") as watched:
        (run / "metrics.csv").write_text("step,val/loss\r\n1,2.0\r\n")
        other_tab.start()
        other_tab.join(0.5)
        assert other_tab.is_alive()
        assert set(watched.metrics.columns) == {"train/loss"}
    other_tab.join()
    assert set(answers.run(library, "a")["series"]) == {"val/loss"}
