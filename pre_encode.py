"""Encode a dataset with the options of stable-audio-tools; the same as `stable-audio encode`."""

import sys

from stable_audio.cli import main_as

if __name__ == "__main__":
    sys.exit(main_as("pre_encode.py"))
