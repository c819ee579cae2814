"""docs/compatibility.md is what its script writes, and its list has every entry of the foreign tables."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase

from scripts import compatibility
from stable_audio.config.reading.compat import FOREIGN_KEYS
from stable_audio.config.reporting.fork_names import FORK_VALUES

FEATURES = json.loads(compatibility.FEATURES.read_text(encoding="utf-8"))["groups"]


def test_the_page_is_up_to_date() -> None:
    text = compatibility.PAGE.read_text(encoding="utf-8")
    assert text == compatibility.page(), "run `python scripts/compatibility.py`"


def test_every_feature_has_a_status() -> None:
    statuses = {"served", "translated", "ignored", "training refused", "not served"}
    for group in FEATURES:
        for feature, status, text in compatibility.feature_rows(group):
            assert status in statuses, feature
            assert text, feature


def test_every_name_of_the_tables_is_listed() -> None:
    listed = {(group["place"], name) for group in FEATURES for name in group.get("names", ())}
    for pattern, names in FORK_VALUES.items():
        for name in names:
            assert any(fnmatchcase(place, pattern) and name == n for place, n in listed), (pattern, name)


SAME_THING = {
    "model.config.diffusion_objective",
    "model.conditioning.configs.*.config.padding_mode",
    "model.diffusion.config.input_add_ids",
    "model.diffusion.config.input_add_dims",
    "model.diffusion.config.input_add_dim",
    "model.lora",
    "video_fps",
    "training.demo.*",
    "training.optimizer_configs.discriminator",
}
"""Keys that the page shows at another place, or that have no name of their own."""


def test_every_key_of_the_tables_is_listed() -> None:
    listed = {".".join(filter(None, (g["place"], key))) for g in FEATURES for key in g.get("keys", ())}
    assert not FOREIGN_KEYS.keys() - listed - SAME_THING
