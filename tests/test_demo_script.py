"""`make demo`: interrupted, it keeps what there is and says how to go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Stands for training: needs longer to write its checkpoint than subprocess.run would wait for it.
TRAINING = """
import signal, sys, time
from pathlib import Path
out = Path(sys.argv[1]) / "quickstart"
def stop(number, frame):
    time.sleep(0.6)
    (out / "demos").mkdir(parents=True)
    (out / "demos" / "index.html").write_text("page")
    (out / "last.safetensors").write_text("weights")
    sys.exit(128 + number)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, stop)
Path(sys.argv[1], "begun").write_text("")
time.sleep(60)
"""
DEMO = """
import sys
from scripts import demo
_, place, training = sys.argv
demo._training = lambda out, max_steps: ["-c", training, str(out)]
sys.argv = ["demo.py", "--out", place]
sys.exit(demo.main())
"""


@pytest.mark.parametrize(("number", "group"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_a_signal_waits_for_the_command_and_says_how_to_go_on(
    tmp_path: Path, number: signal.Signals, group: bool
) -> None:
    command = [sys.executable, "-c", DEMO, str(tmp_path), TRAINING]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        for _ in range(600):
            if (tmp_path / "begun").exists():
                break
            time.sleep(0.05)
        # A terminal sends Ctrl-C to all processes; `kill` sends to one.
        (os.killpg if group else os.kill)(process.pid, number)
        told, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 128 + number
    page, weights = tmp_path / "quickstart" / "demos" / "index.html", tmp_path / "quickstart/last.safetensors"
    last = told.strip().splitlines()[-1]
    assert last == (
        f"stopped (sounds so far: {page}, weights so far: {weights}); "
        f"make demo DEMO={tmp_path} goes on from here"
    )
    assert "infer.py" not in told


def test_training_is_continued_and_gives_sounds_early() -> None:
    from scripts import demo

    command = demo._training(Path("out"), None)
    assert "--recover" in command
    assert command[command.index("--first-demo-minutes") + 1] == "2"


@pytest.mark.parametrize(("failing", "status"), [("evaluate-quickstart", 0), ("infer.py", 1)])
def test_missed_goals_hide_no_sounds_but_a_failure_ends_it(
    failing: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    from scripts import demo

    monkeypatch.setattr(demo.signal, "signal", lambda *_: None)
    monkeypatch.setattr(demo.Commands, "run", lambda self, *command: int(failing in command))
    monkeypatch.setattr(sys, "argv", ["demo.py", "--out", str(tmp_path)])
    assert demo.main() == status
    printed = capsys.readouterr().out
    assert (f"listen: {tmp_path / 'rendered' / 'index.html'}" in printed) == (status == 0)
    assert ("misses goals" in printed) == (status == 0)
