"""The autoencoder that comes with the quickstart: what goes through it is still what it was."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import torch

from stable_audio import load_model
from stable_audio.checkpoints import read_checkpoint
from stable_audio.data.synthetic import LOWEST_PITCH, NUM_PITCHES, ClipDescription, note_frequency
from stable_audio.data.synthetic.rendering import Voice, render
from stable_audio.data.synthetic.sounds import SOUNDS
from stable_audio.evaluation.quickstart import QuickstartEvaluator

FOLDER = Path(__file__).parents[1] / "model_configs" / "quickstart"
CODEC = FOLDER / "codec.safetensors"


def test_it_is_small_and_has_the_config_beside_it() -> None:
    assert CODEC.stat().st_size < 5e6
    config = dict(read_checkpoint(CODEC).config or {})
    # Nearly standardised in training, but on pieces with less silence than whole clips have.
    assert config["model"].pop("latent_scale") == pytest.approx(1, abs=0.05)
    assert config == json.loads((FOLDER / "codec.json").read_text())


@pytest.mark.slow
def test_rendered_sounds_pass_the_evaluator_there_and_back() -> None:
    model, config = load_model(CODEC)
    evaluator = QuickstartEvaluator(sample_rate=config.sample_rate, sample_size=config.sample_size)
    count = 48
    with torch.no_grad():
        clips = torch.cat([model.decode(model.encode(b)) for b in evaluator.originals()[:count].split(12)])
    scores = evaluator.score(clips, evaluator.requests()[:count])
    assert scores.pitch == 1
    assert scores.timbre > 0.97
    # Noise above -45 dB between the partials, where the rendered clip has none. Fast Griffin-Lim (a momentum
    # of 0.99) leaves it in 19 of the 48, since it follows every small error of the decoded magnitudes.
    assert scores.defects["noisy"] < 0.2 * count


def test_latents_are_nearly_a_sum_of_pitch_and_timbre() -> None:
    """Two timbres at two pitches each: the difference that the pitch makes is the same for both, nearly."""
    model, config = load_model(CODEC)
    rate, size = config.sample_rate, config.sample_size

    def latents(timbre: str, midi: int) -> torch.Tensor:
        voice = Voice(note_frequency(midi), 1.0, 0.4, 0.0, 0.0, seed=0)
        sound = torch.from_numpy(render(SOUNDS[timbre], voice, sample_rate=rate, sample_size=size))
        return model.encode(sound.float()[None, None])[0, :, 2:12]

    with torch.no_grad():
        high, low = ({t: latents(t, midi) for t in ("sawtooth", "square")} for midi in (64, 55))
    differences = [high[t] - low[t] for t in high]
    change, disagreement = differences[0], differences[0] - differences[1]
    assert disagreement.square().mean() < 0.1 * change.square().mean()


def test_what_the_script_knows_of_a_frame() -> None:
    script = runpy.run_path(str(FOLDER.parents[1] / "examples" / "quickstart_codec.py"))
    voices = tuple(Voice(220.0, 0.2, 0.1, 0.5, -1.0, seed=0, onset=onset) for onset in (0.0, 0.2))
    clip = ClipDescription("organ", (57, 60), "", voices, "medium", "long", False, False)
    pitches, features = script["known_of"](clip, seconds=0.16, count=4)
    expected = torch.zeros(4, NUM_PITCHES)
    # To 0.16 s the first note, to 0.32 s a quarter of it and three of the second, to 0.48 s half a frame.
    expected[0, 57 - LOWEST_PITCH], expected[1, 57 - LOWEST_PITCH] = 1, 0.25
    expected[1, 60 - LOWEST_PITCH], expected[2, 60 - LOWEST_PITCH] = 0.75, 0.5
    torch.testing.assert_close(pitches, expected)
    timbres = len(SOUNDS)
    assert features[:, :timbres].argmax(dim=1).tolist() == [list(SOUNDS).index("organ")] * 4
    sounding = torch.tensor([1, 1, 0.5, 0])
    torch.testing.assert_close(features[:, timbres], torch.tensor([0.08, 0.04, 0.2, 0.36]))
    torch.testing.assert_close(features[:, timbres + 5], sounding)
    torch.testing.assert_close(features[:, timbres + 6], -2 * sounding)
    torch.testing.assert_close(features[:, timbres + 7], 0.5 * sounding)
