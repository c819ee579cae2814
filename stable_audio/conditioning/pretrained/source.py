"""Where a pretrained network is: a folder saved by transformers, or a model of the Hugging Face hub."""

from __future__ import annotations

import os
from collections.abc import Hashable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stable_audio.audio.json_files import read_json_object
from stable_audio.conditioning.tokenizers import import_transformers
from stable_audio.network import downloaded_file, load_failure, transformers_arguments

CONFIG = "config.json"


@dataclass(frozen=True)
class NetworkSource:
    """A folder or hub id.

    Attributes:
        name: the folder, or owner/name of a model on the hub, or owner/name@revision.
        key: the key of the config that says so, for messages.
        subfolder: folder within it.
    """

    name: str
    key: str
    subfolder: str = ""

    @property
    def path(self) -> Path:
        """The folder, which need not exist."""
        return Path(self.name).expanduser() / self.subfolder

    @property
    def is_local(self) -> bool:
        """Whether a file or folder of this name exists, so that the hub is not asked."""
        return os.path.exists(os.path.expanduser(self.name))

    @property
    def tokenizer(self) -> NetworkSource:
        """Where its tokenizer is: with it, or in a folder beside it, as pipelines of diffusers have it."""
        beside = Path(self.name).expanduser() / "tokenizer"
        apart = self.subfolder == "text_encoder" and beside.is_dir()
        return replace(self, subfolder=beside.name) if apart else self

    def arguments(self) -> tuple[str, dict[str, Any]]:
        """Arguments of transformers' `from_pretrained`: the folder or hub id, and keywords."""
        if self.is_local:
            return str(self.path), {"local_files_only": True}
        name, _, revision = self.name.partition("@")
        return transformers_arguments(name, revision=revision, subfolder=self.subfolder)

    def config_at_hand(self) -> dict[str, Any] | None:
        """The content of config.json; None where the hub would have to be asked for it."""
        file = self.path / CONFIG if self.is_local else self._downloaded(CONFIG)
        return read_json_object(file) if file is not None and file.is_file() else None

    def config(self) -> Any:
        """The config, as transformers' object, downloaded where it has to be.

        Raises:
            ImportError: transformers is missing; the message names the extra.
            OSError: there is none, or transformers does not know the kind of the model.
        """
        try:
            name, options = self.arguments()
            return import_transformers().AutoConfig.from_pretrained(name, **options)
        except (OSError, ValueError, KeyError) as error:
            raise self.failure(error) from error

    def identity(self, kind: str) -> Hashable:
        """Equal for networks with the same weights, and another one once a folder has been written again.

        Args:
            kind: name of the network, of several that the source may hold.
        """
        folder = self.path if self.is_local else self._snapshot()
        if folder is None:
            return (kind, self.name, self.subfolder)
        files = [folder] if folder.is_file() else sorted(f for f in folder.iterdir() if f.is_file())
        stats = ((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in map(Path.resolve, files))
        return (kind, str(folder.resolve()), *stats)

    def failure(self, error: Exception) -> OSError:
        """The error that it cannot be loaded, in one sentence."""
        reason = load_failure(self.name.partition("@")[0], error)
        return OSError(
            f"{self.key} '{self.name}' cannot be loaded: {reason}; connect to the hub, or give a folder that "
            "holds it"
        )

    def _snapshot(self) -> Path | None:
        """The folder into which the model was downloaded before."""
        file = self._downloaded(CONFIG)
        return None if file is None else file.parent

    def _downloaded(self, filename: str) -> Path | None:
        name, _, revision = self.name.partition("@")
        within = f"{self.subfolder}/{filename}" if self.subfolder else filename
        return downloaded_file(name, within, revision=revision or None)
