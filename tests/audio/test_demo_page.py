"""The page of demos: every clip of every step, texts that are not markup, pictures true to level."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stable_audio.audio.demo_page import DemoClip, DemoStep, read_steps, write_index, write_step_page
from stable_audio.audio.demo_page.clips import save_clip
from stable_audio.audio.loudness import integrated_loudness
from stable_audio.audio.sound_picture import WAVE_HEIGHT, WIDTH, sound_picture, waveform
from tests.audio.test_contact_sheet import NASTY, _decoded

SCRIPT = Path(write_index.__code__.co_filename).parent / "demos.js"


def page_data(page: Path) -> dict[str, Any]:
    (text,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL
    )
    return json.loads(text)


def _clip(file: str = "a.wav", **values: Any) -> DemoClip:
    return DemoClip(
        **{"file": file, "row": "bell", "column": "CFG 1", "peak": 0.5, "clipped": False, **values}
    )


def _write(demos: Path, step: int, *clips: DemoClip, pictures: tuple[str, ...] = ()) -> Path:
    folder = demos / f"step_{step:08d}"
    folder.mkdir(parents=True)
    write_step_page(folder, DemoStep(step=step, clips=clips, pictures=pictures))
    return folder


def test_all_steps_are_on_one_page(tmp_path: Path) -> None:
    demos = tmp_path / "first" / "demos"
    for step in (20, 5):
        measured = {"loudness": -20.5, "seconds": 1.5, "picture": "a.png"}
        _write(demos, step, _clip(**measured, clipped=step == 5), _clip("b.wav", column="CFG 3"))
    write_index(demos)
    told = page_data(demos / "index.html")
    assert told["cells"] == [{"row": "bell", "column": "CFG 1"}, {"row": "bell", "column": "CFG 3"}]
    assert [step["step"] for step in told["steps"]] == [5, 20]
    first, second = told["steps"][0]["clips"]
    assert first == {
        "cell": 0,
        "url": "step_00000005/a.wav",
        "picture": "step_00000005/a.png",
        "peak": 0.5,
        "clipped": True,
        "loudness": -20.5,
        "seconds": 1.5,
    }
    assert (second["cell"], second["picture"], second["loudness"]) == (1, None, None)
    assert "<title>Demos of first</title>" in (demos / "index.html").read_text()
    assert page_data(demos / "step_00000005" / "index.html")["steps"][0]["clips"][0]["url"] == "a.wav"


def test_a_row_says_at_each_step_what_it_said_then(tmp_path: Path) -> None:
    _write(tmp_path, 1, _clip(row="a.wav, SI-SDR 2 dB"), pictures=("latents 1.png",))
    _write(tmp_path, 2, _clip(row="a.wav, SI-SDR 9 dB"))
    write_index(tmp_path)
    told = page_data(tmp_path / "index.html")
    assert told["cells"] == [{"row": "a.wav, SI-SDR 9 dB", "column": "CFG 1"}]
    assert [step["clips"][0].get("row") for step in told["steps"]] == ["a.wav, SI-SDR 2 dB", None]
    assert [step["pictures"] for step in told["steps"]] == [["step_00000001/latents%201.png"], []]


def test_a_run_and_a_prompt_that_are_not_unicode(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"r\xe9") / "demos" / "step_00000002"
    folder.mkdir(parents=True)
    clip = DemoClip(file="a.wav", row="half \ud800", column="CFG 1", peak=0.5, clipped=False)
    write_step_page(folder, DemoStep(step=2, clips=[clip]))
    write_index(folder.parent)
    page = (folder.parent / "index.html").read_text(encoding="utf-8")
    assert "<title>Demos of r\\udce9</title>" in page
    assert "half \\ud800, CFG 1" in page


def test_nothing_in_a_demo_is_markup(tmp_path: Path) -> None:
    name = "0001 #%?&'<.wav"
    folder = _write(tmp_path, 1, _clip(name, row=NASTY, column=NASTY, picture="<.png"), pictures=("<&.png",))
    write_index(tmp_path)
    for page in (tmp_path / "index.html", folder / "index.html"):
        told, text = page_data(page), page.read_text()
        assert told["cells"] == [{"row": NASTY, "column": NASTY}]
        assert told["steps"][0]["clips"][0]["url"].endswith("0001%20%23%25%3F%26%27%3C.wav")
        assert text.count("<script") == text.count("</script>") == 2
        assert html.escape(NASTY) in text  # in the list for browsers without scripts
        assert "<b>" not in text
        assert "://" not in text
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", SCRIPT.read_text())


@pytest.mark.skipif(shutil.which("node") is None, reason="node reads the script")
def test_the_script_is_javascript() -> None:
    subprocess.run(["node", "--check", str(SCRIPT)], check=True)


EARLIER = {"file": "a.wav", "row": "bell", "column": "CFG 1", "peak": 0.5, "clipped": False}


@pytest.mark.parametrize(
    ("change", "is_read"),
    [
        ({}, True),  # as written before loudness, length and picture were
        ({"later": 1}, True),
        ({"loudness": float("nan")}, True),
        ({"peak": float("inf")}, False),
        ({"peak": None}, False),
        ({"seconds": "long"}, False),
        ({"loudness": "loud"}, False),
    ],
)
def test_summaries_of_other_versions_and_damaged_ones(
    change: dict[str, Any], is_read: bool, tmp_path: Path
) -> None:
    (tmp_path / "step_00000001").mkdir()
    content = {"step": 1, "clips": [{**EARLIER, **change}]}
    (tmp_path / "step_00000001" / "demos.json").write_text(json.dumps(content))
    clips = [clip for step in read_steps(tmp_path) for clip in step.clips]
    assert clips == ([_clip()] if is_read else [])
    write_index(tmp_path)
    assert len(page_data(tmp_path / "index.html")["steps"]) == is_read


def test_a_clip_is_written_with_its_picture_and_measures(tmp_path: Path) -> None:
    audio = 1.25 * torch.sin(torch.arange(16000) * 0.3)[None].repeat(2, 1)
    clip = save_clip(tmp_path / "a.wav", audio, 8000, row="r", column="c")
    assert (clip.file, clip.picture, clip.seconds, clip.clipped) == ("a.wav", "a.png", 2.0, True)
    assert clip.loudness == pytest.approx(integrated_loudness(audio.clamp(-1, 1), 8000), abs=0.006)
    picture = _decoded((tmp_path / "a.png").read_bytes())
    assert picture.shape == (WAVE_HEIGHT + 64, WIDTH)
    assert np.array_equal(picture[:WAVE_HEIGHT], waveform(audio))
    silent = save_clip(tmp_path / "b.wav", torch.zeros(1, 100), 8000, row="r", column="c")
    assert silent.loudness is None
    assert json.dumps(silent.loudness, allow_nan=False) == "null"


def test_the_waveform_is_true_to_level_and_shows_where_it_clips() -> None:
    audio = torch.zeros(2, 4 * WIDTH)
    audio[0, 400:403], audio[1, 400:403] = 0.5, -0.25  # column 100
    audio[1, 803] = -1.5  # column 200
    picture = waveform(audio)
    middle = WAVE_HEIGHT // 2
    wave = picture[middle, 0]
    assert (picture[middle] == np.where(np.arange(WIDTH) == 200, picture[WAVE_HEIGHT - 1, 200], wave)).all()
    assert np.flatnonzero(picture[:, 100] == wave).tolist() == list(range(10, 26))
    assert (picture[middle:, 200] == picture[middle, 200]).all()
    assert picture[middle, 200] != wave
    assert len(np.unique(picture[:, 101])) == 2  # the line of silence, and what is behind it
    for length in (0, 1, 7):
        assert sound_picture(torch.ones(1, length), 8000).startswith(b"\x89PNG")
