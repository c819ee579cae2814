"""Make a file for inference with the options of stable-audio-tools; as `stable-audio export --layout sat`."""

import sys

from stable_audio.cli import main_as

if __name__ == "__main__":
    sys.exit(main_as("unwrap_model.py"))
