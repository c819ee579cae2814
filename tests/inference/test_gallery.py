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


def test_clips_are_told_apart_by_what_their_recipes_have(tmp_path: Path) -> None:
    save_audio(tmp_path / "a.wav", chirp(0.5, 8000), 8000)
    recipe = {
        "conditioning": {"prompt": "a bell", "seconds_total": 4},
        "negative_conditioning": {"prompt": "hiss"},
        "seed": 7,
        "init_noise_level": 0.3,
        "use_ema": True,
        "sampling": {"cfg_scale": 3.0, "sampler": "euler", "apg_scale": None, "cfg_interval": [0, 1]},
        "adapters": [{"path": "/runs/pad.safetensors", "strength": 0.5}],
        "checkpoint": {"path": "/runs/bells.safetensors"},
    }
    output = {
        "file": "a.wav",
        "peak": 0.5,
        "clipped": True,
        "samples": 4000,
        "sample_rate": 8000,
        "loudness": -16.0,
    }
    told = {"format": "stable-audio render", "recipe": recipe, "output": output}
    (tmp_path / "a.json").write_text(json.dumps(told))
    write_render_page(tmp_path, [])
    page = (tmp_path / "index.html").read_text()
    (clip,) = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert clip["facts"] == {
        "prompt": "a bell",
        "seconds_total": 4,
        "negative prompt": "hiss",
        "seed": 7,
        "init_noise_level": 0.3,
        "cfg_scale": 3.0,
        "sampler": "euler",
        "cfg_interval": "[0, 1]",
        "adapters": "pad:0.5",
        "checkpoint": "bells",
        "loudness": -16.0,
    }
    assert (clip["text"], clip["seconds"], clip["clipped"]) == ("a bell", 0.5, True)
    assert (tmp_path / clip["picture"]).is_file()
