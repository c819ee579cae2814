"""Pictures of demos that a run wrote before pictures were written: drawn when a browser asks for them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from stable_audio.audio.demo_page import DemoClip, DemoStep
from stable_audio.interface.watch.sounds import demo_file

SUFFIX = ".drawn.png"
"""End of the address of a picture that is drawn, after the name of its sound."""


def with_pictures(steps: Iterable[DemoStep]) -> list[DemoStep]:
    """The steps, with the address of a drawn picture for each clip that has none."""
    return [replace(step, clips=[_pictured(clip) for clip in step.clips]) for step in steps]


def _pictured(clip: DemoClip) -> DemoClip:
    return clip if clip.picture is not None else replace(clip, picture=clip.file + SUFFIX)


def drawn(demos: Path, address: str) -> bytes | None:
    """The picture at an address that `with_pictures` gave; None without a sound that can be read.

    Args:
        demos: folder of the demos.
        address: below it.
    """
    sound = demo_file(demos, address.removesuffix(SUFFIX)) if address.endswith(SUFFIX) else None
    if sound is None:
        return None
    # Both need torch, which the server does without as long as no picture is drawn.
    from stable_audio.audio.errors import AudioError
    from stable_audio.audio.io import read_audio
    from stable_audio.audio.sound_picture import sound_picture

    try:
        audio, sample_rate = read_audio(sound)
    except AudioError:
        return None
    return sound_picture(audio, sample_rate)
