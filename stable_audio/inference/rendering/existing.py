"""Clips that earlier runs have finished."""

from __future__ import annotations

import re
from pathlib import Path

from stable_audio.inference.rendering.recipe import Recipe
from stable_audio.inference.rendering.stored import digest_in

_DIGEST = re.compile(r"_([0-9a-f]{8})\.json$")


class ExistingClips:
    """The clips in a folder, whose names are listed once.

    Args:
        folder: where they are; it may not be there yet.
        suffix: format of the sounds.
    """

    def __init__(self, folder: Path, suffix: str) -> None:
        self._folder, self._suffix = folder, suffix
        self._by_digest: dict[str, list[Path]] = {}
        self._stems: set[str] = set()
        for path in sorted(folder.glob("*.json")):
            self._stems.add(path.stem)
            if match := _DIGEST.search(path.name):
                self._by_digest.setdefault(match[1], []).append(path)

    def finished(self, recipe: Recipe, stem: str) -> Path | None:
        """The sound of this recipe, if it and its JSON are complete.

        Args:
            stem: name that it would have now; a name with its digest counts, too.
        """
        digest = recipe.digest()
        paths = self._by_digest.get(digest[:8], [])
        for path in [self._folder / f"{stem}.json", *paths] if stem in self._stems else paths:
            sound = path.with_suffix(f".{self._suffix}")
            if digest_in(path) == digest and sound.is_file() and sound.stat().st_size > 0:
                return sound
        return None

    def other(self, recipe: Recipe, stem: str) -> Path | None:
        """The file of another clip that has this name.

        A sound without its JSON is that of this recipe if its comment or its name says so: a run was ended
        between the two.
        """
        sound = self._folder / f"{stem}.{self._suffix}"
        digest = recipe.digest()
        if stem in self._stems:
            path = sound.with_suffix(".json")
            return path if digest_in(path) not in (None, digest) else None
        if stem.endswith(digest[:8]) or not sound.is_file() or digest_in(sound) == digest:
            return None
        return sound
