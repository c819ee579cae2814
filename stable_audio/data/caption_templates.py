"""Make captions from a file's name, folder and tags."""

from __future__ import annotations

import os
import re
import string
from collections.abc import Callable, Sequence

from stable_audio.characters import whole
from stable_audio.data.base import DataError
from stable_audio.types import Metadata


class CaptionTemplates:
    """Fill caption templates such as "{title} by {artist}"; the first that can be filled is used.

    Fields: `name` and `folder`, the file's name without suffix and the last folder, as words; every key of
    the metadata; every tag of the file.

    Args:
        templates: one template, or several in order of preference.

    Raises:
        DataError: a template is malformed, or has no field.
    """

    def __init__(self, templates: str | Sequence[str]) -> None:
        self.templates = [templates] if isinstance(templates, str) else list(templates)
        self.fields = [_fields(template) for template in self.templates]
        if not self.templates:
            raise DataError("caption_template: empty; give a text such as '{folder}, {name}'")

    def __call__(self, path: str, metadata: Metadata, tags: Callable[[], dict[str, str]]) -> str | None:
        """The caption, or None if no template can be filled.

        Args:
            path: path of the file; it may be relative to the dataset's folder.
            tags: returns the tags of the file; called only if a field has no other source.
        """
        fields_of_file = {
            k: str(v) for k, v in metadata.items() if isinstance(v, (str, int, float)) and str(v).strip()
        }
        fields_of_file["name"] = words(os.path.splitext(os.path.basename(path))[0])
        fields_of_file["folder"] = words(os.path.basename(os.path.dirname(path)))
        tag_values: dict[str, str] | None = None
        for template, fields in zip(self.templates, self.fields, strict=True):
            if tag_values is None and not all(field in fields_of_file for field in fields):
                tag_values = tags()
            values = {**(tag_values or {}), **fields_of_file}
            if all(values.get(field) for field in fields):
                return whole(template.format(**{field: values[field] for field in fields}))
        return None


def words(name: str) -> str:
    """Split a file name into words: "Kick_01-short" -> "Kick 01 short"."""
    return " ".join(re.sub(r"[_\-]+", " ", name).split())


def _fields(template: str) -> list[str]:
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise DataError(f"caption_template: {template!r} is no template ({error})") from error
    fields = [field for _, field, _, _ in parts if field is not None]
    plain = all(not spec and not conversion for _, _, spec, conversion in parts)
    if not fields or not plain or not all(re.fullmatch(r"\w+", field) for field in fields):
        raise DataError(
            f"caption_template: {template!r} must have fields such as {{name}}, {{folder}}, {{title}} and no "
            "other braces"
        )
    return fields
