import struct
from pathlib import Path

import pytest
import torch

from stable_audio.audio.plots import save_mel_grid
from tests.audio.sounds import chirp

pytest.importorskip("matplotlib")


def test_grid_is_a_png(tmp_path: Path) -> None:
    clips = [
        ("costs $5 a_b^c$ and a very long title that does not fit into the picture", chirp(0.5, 16000))
    ] * 5
    clips.append(("silence", torch.zeros(1, 100)))
    save_mel_grid(tmp_path / "grid.png", clips, 16000, columns=3)
    head = (tmp_path / "grid.png").read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", head[16:24])
    assert width > 2 * height


def test_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one"):
        save_mel_grid(tmp_path / "grid.png", [], 16000)
