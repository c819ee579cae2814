import struct
from pathlib import Path

import pytest
import torch

from stable_audio.audio.plots import principal_components, save_latents, save_mel_grid
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


def test_latents_are_pictured_whatever_their_number(tmp_path: Path) -> None:
    for name, frames in (("many", 40), ("one", 1)):
        clips = [("first", torch.randn(6, frames)), ("second", torch.randn(6, frames))]
        save_latents(tmp_path / f"{name}.png", clips)
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="at least one"):
        save_latents(tmp_path / "none.png", [])


def test_principal_components_keep_distances_within_a_plane() -> None:
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(50, 2, generator=generator, dtype=torch.float64)
    frame = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64))[0]
    plane, shares = principal_components(3.0 + flat @ frame[:2])
    assert torch.allclose(torch.cdist(plane, plane), torch.cdist(flat, flat), atol=1e-6)
    assert sum(shares) == pytest.approx(1.0, abs=1e-5)
    assert shares[0] >= shares[1]
    line, shares = principal_components(torch.arange(4.0)[:, None])
    assert torch.equal(line[:, 1], torch.zeros(4))
    assert shares == pytest.approx([1.0, 0.0])
