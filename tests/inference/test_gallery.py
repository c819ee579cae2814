import json
from pathlib import Path

import pytest

from stable_audio.audio.io import save_audio
from stable_audio.inference.rendering.gallery import write_render_page
from tests.audio.sounds import chirp


def test_a_damaged_clip_of_an_earlier_run_is_left_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = {"conditioning": {"prompt": "a bell"}, "sampling": {"cfg_scale": 3.0}}
    told = {"recipe": recipe, "output": {"peak": 0.5, "clipped": False}}
    for name in ("a", "b"):
        save_audio(tmp_path / f"{name}.wav", chirp(0.2, 8000), 8000)
        (tmp_path / f"{name}.json").write_text(json.dumps(told))
    (tmp_path / "a.wav").write_bytes(b"")
    write_render_page(tmp_path, tmp_path.glob("*.wav"))
    page = (tmp_path / "index.html").read_text()
    assert "b.wav" in page
    assert "a.wav" not in page
    assert "a.wav: is empty" in caplog.text
