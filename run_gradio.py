"""Open a page on which to generate sounds. The same as `stable-audio ui`."""

import sys

from stable_audio.cli import main_as

if __name__ == "__main__":
    sys.exit(main_as("run_gradio.py"))
