"""Write docs/compatibility.md: what of stable-audio-tools' family is served, how, and what is not and why.

The features are listed by name in compatibility_features.json; what becomes of each is asked of the schema
and of the tables of foreign keys and names, so that the page says what a file would be told.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stable_audio.backbones import BACKBONES, UNCOND_BACKBONES
from stable_audio.conditioning import CONDITIONERS
from stable_audio.config.reading.compat import Ignore, Rename, Spread, drop_comments, foreign_key
from stable_audio.config.reporting.fork_names import foreign_value
from stable_audio.config.schemas.leaf import leaf_model
from stable_audio.config.sections.autoencoder import AutoencoderTrainingSection
from stable_audio.config.sections.dataset import dataset_models
from stable_audio.config.sections.diffusion import DiffusionSection
from stable_audio.config.sections.top import MODEL_TYPES, DiffusionCondConfig
from stable_audio.config.sections.training import CondDemoSection, CondTraining
from stable_audio.data import DATASETS
from stable_audio.diffusion.objectives import OBJECTIVES
from stable_audio.diffusion.timesteps import TIMESTEP_SAMPLERS
from stable_audio.optim import LR_SCHEDULERS, OPTIMIZERS
from stable_audio.pretransforms import BOTTLENECKS, ENCODERS, PRETRANSFORMS
from stable_audio.pretransforms.discriminators import DISCRIMINATORS

ROOT = Path(__file__).resolve().parent.parent
FEATURES = Path(__file__).with_name("compatibility_features.json")
PAGE = ROOT / "docs" / "compatibility.md"

REGISTRIES: dict[str, Mapping[str, Any]] = {
    "model_type": MODEL_TYPES,
    "dataset_type": DATASETS,
    "model.diffusion.type": BACKBONES,
    "model.type": UNCOND_BACKBONES,
    "model.diffusion.diffusion_objective": OBJECTIVES,
    "model.conditioning.configs.*.type": CONDITIONERS,
    "model.pretransform.type": PRETRANSFORMS,
    "model.encoder.type": ENCODERS,
    "model.bottleneck.type": BOTTLENECKS,
    "training.loss_configs.discriminator.type": DISCRIMINATORS,
    "training.timestep_sampler": TIMESTEP_SAMPLERS,
    "training.optimizer_configs.*.optimizer.type": OPTIMIZERS,
    "training.optimizer_configs.*.scheduler.type": LR_SCHEDULERS,
}
"""Place of a name -> the registry that it is looked up in."""

SECTIONS: dict[tuple[str, str], Any] = {
    ("", ""): DiffusionCondConfig,
    ("model.diffusion", ""): DiffusionSection,
    ("model.diffusion.config", ""): leaf_model(BACKBONES["dit"]),
    ("training", ""): CondTraining,
    ("training.demo", ""): CondDemoSection,
    ("training", "autoencoder"): AutoencoderTrainingSection,
    ("", "audio_dir"): dataset_models()["audio_dir"],
    ("", "wds"): dataset_models()["wds"],
}
"""(place of a section, kind of file) -> its model."""

INTRODUCTION = """# What of the family is served

Files of stable-audio-tools, its later versions, Stable Audio 3 and their forks, feature by feature. This page
is made by `python scripts/compatibility.py` from the schema and from the tables that answer a file, so that
it says what `stable-audio check` says.

- **served**: works as there
- **translated**: works under another name or at another place, with a warning that gives it
- **ignored**: has no effect here; left out, with a warning
- **training refused**: the model loads and generates; training it is refused, unless the key is left out
- **not served**: refused in a sentence that says why
"""


def feature_rows(group: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(feature, status, how or why not) of a group of the list.

    Raises:
        LookupError: neither the schema nor a table knows a feature.
    """
    place = group["place"]
    for name in group.get("names", ()):
        yield f"`{name}`", *_name(place, name)
    for key in group.get("keys", ()):
        loc = tuple(part for part in (*place.split("."), key) if part)
        yield f"`{key}`", *_key(SECTIONS[place, group.get("of", "")], loc)


def _name(place: str, name: str) -> tuple[str, str]:
    registry = REGISTRIES[place]
    if name in registry:
        return "served", _summary(registry[name])
    known = foreign_value(tuple(place.replace("*", "0").split(".")), name)
    if known is None:
        raise LookupError(f"{place} {name}: neither in the registry nor in the table of foreign names")
    if isinstance(known, Rename):
        return "translated", f"is `{known.to}` here"
    return ("training refused" if place.startswith("training.optimizer") else "not served"), known.reason


def _key(model: Any, loc: tuple[str, ...]) -> tuple[str, str]:
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    if loc[-1] in fields:
        return "served", (fields[loc[-1]].description or "as there").removesuffix(".")
    known = foreign_key(loc)
    if [*drop_comments({loc[-1]: None})]:
        return "ignored", "it is a comment"
    if known is None:
        raise LookupError(f"{'.'.join(loc)}: neither served nor in a table of foreign keys")
    if isinstance(known, Rename):
        return "translated", f"is `{known.to}` here"
    if isinstance(known, Spread):
        return "translated", f"is a key of every entry of `{known.over}` here"
    if isinstance(known, Ignore):
        return "ignored", known.reason
    training = known.training or loc[0] == "training"
    return ("training refused" if training else "not served"), known.reason


def _summary(component: Any) -> str:
    """The first sentence of a component's description, where it is one of ours."""
    if not component.__module__.startswith("stable_audio."):
        return "torch's"
    text = " ".join((inspect.getdoc(component) or "").split("\n\n")[0].split())
    return re.split(r"(?<! al)[.:;](?: |$)", text)[0]


def page() -> str:
    """The text of docs/compatibility.md."""
    features = json.loads(FEATURES.read_text(encoding="utf-8"))
    parts = [INTRODUCTION]
    for group in features["groups"]:
        parts.append(_table(group["title"], feature_rows(group)))
    parts.append(_table("Beyond keys and names", map(tuple, features["beyond"])))
    return "\n".join(parts)


def _table(title: str, rows: Any) -> str:
    lines = [f"## {title}", "", "| feature | | how, or why not |", "|---|---|---|"]
    lines += [f"| {feature} | {status} | {text.replace('|', '/')} |" for feature, status, text in rows]
    return "\n".join([*lines, ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only; status 1 if the page differs")
    text = page()
    if parser.parse_args().check:
        return int(PAGE.read_text(encoding="utf-8") != text)
    PAGE.write_text(text, encoding="utf-8")
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
