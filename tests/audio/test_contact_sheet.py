"""The page of clips: whatever names and prompts hold, and pictures that say what they show."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from stable_audio.audio.contact_sheet import SheetClip, write_contact_sheet
from stable_audio.audio.contact_sheet.thumbnails import levels, thumbnail_of
from stable_audio.audio.io import save_audio
from stable_audio.audio.png import heat_palette, png_bytes
from tests.audio.sounds import chirp

NASTY = '</script><script>alert(1)</script> <b>"&amp;@@SCRIPT@@ \u2028 音'


def _data(page: str) -> list[dict[str, object]]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def test_nothing_in_a_clip_is_markup(tmp_path: Path) -> None:
    name = "0001 #%?&'<.wav"
    clip = SheetClip(
        name, NASTY, {"prompt": NASTY, "seed": 3, "none": None}, 1.5, 0.25, True, f"thumbs/{name}.png"
    )
    page = write_contact_sheet(tmp_path, NASTY, [clip]).read_text(encoding="utf-8")
    (told,) = _data(page)
    assert told["text"] == NASTY
    assert told["facts"] == {"prompt": NASTY, "seed": 3, "none": None}
    assert told["url"] == "0001%20%23%25%3F%26%27%3C.wav"
    assert told["picture"] == "thumbs/0001%20%23%25%3F%26%27%3C.wav.png"
    assert (told["seconds"], told["peak"], told["clipped"]) == (1.5, 0.25, True)
    # The page has its own two scripts and no more, and the fields of its text are not filled twice.
    assert page.count("<script") == page.count("</script>") == 2
    assert f"<title>{html.escape(NASTY)}</title>" in page
    assert "<b>" not in page
    assert "://" not in page


def test_texts_and_names_that_are_not_unicode(tmp_path: Path) -> None:
    half, name = "half \ud800", os.fsdecode(b"caf\xe9.wav")
    page = write_contact_sheet(tmp_path, half, [SheetClip(name, half, {half: half}, picture=name)])
    text = page.read_text(encoding="utf-8")
    (told,) = _data(text)
    assert (told["file"], told["url"], told["picture"]) == (name, "caf%E9.wav", "caf%E9.wav")
    assert "<title>half \\ud800</title>" in text
    assert '<li><a href="caf%E9.wav">half \\ud800</a></li>' in text


def test_the_script_makes_no_markup_of_texts() -> None:
    script = (Path(write_contact_sheet.__code__.co_filename).parent / "sheet.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", script)


@pytest.mark.skipif(shutil.which("node") is None, reason="node reads the script")
def test_the_script_is_javascript() -> None:
    script = Path(write_contact_sheet.__code__.co_filename).parent / "sheet.js"
    subprocess.run(["node", "--check", str(script)], check=True)


def _decoded(png: bytes) -> np.ndarray:
    """The places in the palette, as another reader has them."""
    position, chunks = 8, {}
    while position < len(png):
        size, name = struct.unpack(">I4s", png[position : position + 8])
        content = png[position + 8 : position + 8 + size]
        assert struct.unpack(">I", png[position + 8 + size : position + 12 + size])[0] == zlib.crc32(
            name + content
        )
        chunks[name] = content
        position += 12 + size
    width, height, depth, colours = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert (depth, colours, len(chunks[b"PLTE"])) == (8, 3, 768)
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, width + 1)
    assert not rows[:, 0].any()
    return rows[:, 1:]


def test_pictures_come_back() -> None:
    rows = np.arange(3 * 5, dtype=np.uint8).reshape(3, 5)
    assert np.array_equal(_decoded(png_bytes(rows, heat_palette())), rows)
    brightness = np.frombuffer(heat_palette(), np.uint8).reshape(256, 3).astype(int).sum(1)
    assert (np.diff(brightness) >= 0).all()


def test_a_picture_shows_where_the_sound_is() -> None:
    rate, rows = 16000, 64
    time = torch.arange(rate) / rate
    low, high = (torch.sin(2 * torch.pi * f * time) for f in (300, 6000))
    picture = levels(torch.stack([torch.cat([low, 0 * low]), torch.cat([0 * low, high])]), rate)
    assert picture.shape == (rows, 192)
    first, second = picture[:, 20:70].mean(1).argmax(), picture[:, 120:170].mean(1).argmax()
    assert second < rows // 4 < rows // 2 < first  # high bands are on top
    assert picture.max() == 255
    assert not levels(torch.zeros(2, 1000), rate).any()
    assert levels(torch.ones(1, 3), rate).shape == picture.shape


def test_a_picture_is_drawn_once(tmp_path: Path) -> None:
    sound = tmp_path / "a.wav"
    save_audio(sound, chirp(0.2, 8000), 8000)
    picture = tmp_path / thumbnail_of(sound)
    os.utime(picture, ns=(2**62, 2**62))
    assert tmp_path / thumbnail_of(sound) == picture
    assert picture.stat().st_mtime_ns == 2**62
    os.utime(picture, ns=(0, 0))
    thumbnail_of(sound)
    assert picture.stat().st_mtime_ns > 0
