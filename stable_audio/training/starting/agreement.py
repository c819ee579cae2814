"""What the processes of a run must have in common, as facts that they compare before they train."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from stable_audio.config import ModelConfig
from stable_audio.training.batches.loaders import Datasets
from stable_audio.training.options import RunOptions
from stable_audio.training.record.start_files import versions
from stable_audio.training.saving.resuming import Resumed
from stable_audio.training.starting.precision import device_type
from stable_audio.wording import flag_of

OWN = (
    "any_base",
    "devices",
    "logger",
    "num_nodes",
    "num_workers",
    "overwrite",
    "partial",
    "profile",
    "progress",
    "project",
    "save_dir",
)
"""Options in which processes may differ: of their machines, or of what the first one alone does."""

PLACES = re.compile(r"(path|dir|folder|file|ckpt|module|root|url)s?(\[\d+\])?$")
"""Names of settings that say where something is, which may be another place on each machine."""

COMPARED = ("stable-audio", "torch", "lightning")
"""Packages of which all processes must have the same version."""

LONGEST = 60
"""Characters of a value in a message."""


def start_facts(config: ModelConfig, files: Datasets, options: RunOptions) -> dict[str, str]:
    """What a process knows of a run from its command, files and packages.

    Settings that name a place, such as the folder of a dataset, are left out; what lies there is compared
    when it has been read.
    """
    facts: dict[str, str] = {}
    for name, value in asdict(options).items():
        if name not in OWN:
            flag = flag_of(name)
            facts[flag] = _place(value) if PLACES.search(name) or name == "adapters" else _shown(value)
    facts["device"] = device_type(options)
    installed = versions()
    facts.update({f"the version of {name}": installed.get(name, "none") for name in COMPARED})
    files_of_run = {"the model file": config.as_dict(), **files.as_dicts()}
    names = {"dataset": "the dataset file", "val_dataset": "the validation dataset file"}
    for name, content in files_of_run.items():
        label = names.get(name, name)
        if content is None:
            facts[label] = "none"
            continue
        facts.update({f"{path} in {label}": _shown(value) for path, value in leaves(content)})
    return facts


def resumed_facts(resumed: Resumed | None, options: RunOptions) -> dict[str, str]:
    """The checkpoint from which a process would go on, and the precision that follows from it.

    A file that one machine has and another lacks is the most common way to come apart.

    Args:
        options: with a precision other than "auto".
    """
    found = "none" if resumed is None else f"{resumed.path.name} of step {resumed.step}"
    return {
        "the checkpoint in the run's folder, which must be shared,": found,
        "--precision": options.precision,
    }


def leaves(value: Any, path: str = "$") -> Iterator[tuple[str, Any]]:
    """(JSON path, value) of everything in a config that holds nothing else, but for names of places."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}")
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from leaves(inner, f"{path}[{index}]")
    elif not (isinstance(value, str) and PLACES.search(path)):
        yield path, value


def _place(value: Any) -> str:
    return "set" if value else "not set"


def _shown(value: Any) -> str:
    """A value in JSON; a long one by its beginning, length and a few characters of its hash."""
    text = json.dumps(value, default=str)
    if len(text) <= LONGEST:
        return text
    digest = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]
    return f"{text[:LONGEST]}... ({len(text)} characters, {digest})"
