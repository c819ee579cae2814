"""The scripts of the General MIDI example: captions, what is known of a note, and the verdict."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from stable_audio import load_model

ROOT = Path(__file__).parents[1]
EXAMPLES, CODEC = ROOT / "examples", ROOT / "model_configs/quickstart/codec.safetensors"


@pytest.fixture(autouse=True)
def _examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield
    for name in ("general_midi", "general_midi_codec", "general_midi_judge", "quickstart_codec"):
        sys.modules.pop(name, None)


def test_a_caption_says_instrument_and_pitch() -> None:
    from general_midi import PROGRAMS, Note, captioned

    for instrument in PROGRAMS:
        for pitch in range(48, 84):
            assert captioned(Note(instrument, pitch, "soft", 55).caption + "\n") == (instrument, pitch)
    assert Note("flute", 61, "loud", 115).caption == "loud flute playing C#4"


def test_a_midi_file_strikes_each_note_with_its_velocity_and_holds_it() -> None:
    from general_midi import Note, midi_file

    notes = [Note("flute", 60, "soft", 55), Note("flute", 62, "loud", 115)]
    track = midi_file(73, notes, gate=0.5, spacing=2.0).partition(b"MTrk")[2][4:]
    # 480 ticks a beat, two beats a second: 0.5 s are 480 ticks, the other 1.5 s are 1440 (0x8B 0x20).
    held, rest = b"\x83\x60", b"\x8b\x20"
    first = b"\x00\xc0\x49" + b"\x00\x90\x3c\x37" + held + b"\x80\x3c\x00"
    assert track == first + rest + b"\x90\x3e\x73" + held + b"\x80\x3e\x00" + rest + b"\xff\x2f\x00"


def test_the_listener_learns_from_strikes_that_no_caption_has() -> None:
    from general_midi import GATE, LOUDNESS, OTHERS
    from general_midi_codec import strike

    assert not {v for v, _ in OTHERS} & set(LOUDNESS.values())
    assert not {gate for _, gate in OTHERS} & {GATE}
    assert strike("loud") == (115, GATE)
    assert strike("70") == (70, 0.6)


def test_what_is_known_of_a_note() -> None:
    from general_midi import PROGRAMS
    from general_midi_codec import LOWEST, known_of

    pitches, features = known_of("violin", 60, 64, 0.5, seconds=0.1, count=8)
    assert pitches.argmax(dim=1).tolist() == [60 - LOWEST] * 8
    assert pitches.sum().item() == 8
    assert features[:, list(PROGRAMS).index("violin")].tolist() == [1] * 8
    since, _, _, ending, left, struck = features[:, len(PROGRAMS) :].T
    torch.testing.assert_close(since, 0.1 * torch.arange(8) + 0.05)
    torch.testing.assert_close(left, 0.45 - 0.1 * torch.arange(8))
    assert ending[0] == 1
    assert ending[-1] == -1
    assert struck.tolist() == [0] * 8


def test_goals_and_chance() -> None:
    from general_midi_judge import missed

    right = {
        "recorded": {"instrument": 1.0, "pitch": 1.0},
        "there and back": {"instrument": 0.5, "pitch": 1.0},
        "trained": {"instrument": 0.8, "pitch": 0.8},
        "null conditioning": {"instrument": 0.15, "pitch": 0.03},
        "untrained": {"instrument": 0.2, "pitch": 0.0},
    }
    assert missed(right) == []
    wrong = {
        "recorded": {"instrument": 0.9, "pitch": 1.0},
        "trained": {"instrument": 0.79, "pitch": 0.7},
        "untrained": {"instrument": 0.5, "pitch": 0.2},
    }
    assert [phrase.split(" ")[0] for phrase in missed(wrong)] == ["instrument", "instrument", "pitch"] + [
        "instrument",
        "pitch",
    ]


def test_an_autoencoder_goes_on_from_another_on_the_notes_of_two_folders(tmp_path: Path, monkeypatch) -> None:
    from general_midi import Note, write
    from general_midi_codec import main

    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(27_562) / 22_050).astype(np.float32)
    write(Note("flute", 69, "soft", 55), tone, tmp_path / "train", 22_050)
    write(Note("flute", 69, "125", 125), tone, tmp_path / "others", 22_050)
    write(Note("violin", 69, "loud", 115), tone, tmp_path / "val", 22_050)
    (tmp_path / "val" / "violin_A4_loud.wav").write_bytes(b"what must not be read")
    out = tmp_path / "out" / "codec.safetensors"
    arguments = ["--data", tmp_path, "--init", CODEC, "--steps", 2, "--batch-size", 4, "--out", out]
    monkeypatch.setattr(sys, "argv", ["general_midi_codec.py", *map(str, arguments)])
    main()
    before, after = (load_model(path)[0] for path in (CODEC, out))
    assert after.latent_scale > 0
    changed = [not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters())]
    assert any(changed)
