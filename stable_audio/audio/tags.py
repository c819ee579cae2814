"""Read the tags of sound files: title, artist, genre, ... from ID3, Vorbis comments and the like."""

from __future__ import annotations

import soundfile

from stable_audio.audio.io import AudioSource
from stable_audio.audio.opening import system_name
from stable_audio.audio.pyav import open_container, tags_of
from stable_audio.audio.slices import FileSlice


def read_tags(source: AudioSource) -> dict[str, str]:
    """Tags by lower-case name, without blank ones; empty if the file has none or they cannot be read.

    soundfile reads those of wav, flac, mp3, ogg, opus and aiff (title, artist, album, genre, date, comment,
    tracknumber, copyright, software, license); PyAV, where it is installed, those of m4a.
    """
    try:
        if isinstance(source, FileSlice):
            with source.open() as part, soundfile.SoundFile(part) as file:
                tags = file.copy_metadata()
        else:
            with soundfile.SoundFile(system_name(source)) as file:
                tags = file.copy_metadata()
    except (soundfile.LibsndfileError, RuntimeError, OSError):
        tags = _container_tags(source)
    return {name.lower(): " ".join(text.split()) for name, text in tags.items() if text and text.strip()}


def _container_tags(source: AudioSource) -> dict[str, str]:
    try:
        import av
    except ImportError:
        return {}
    try:
        file = source.open() if isinstance(source, FileSlice) else source
        with open_container(file) as container:
            return tags_of(container)
    except (av.FFmpegError, OSError, ValueError):
        return {}
