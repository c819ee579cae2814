"""Says how to render: there is no web interface. The same as `stable-audio generate --page`."""

import sys

from stable_audio.cli import main_as

if __name__ == "__main__":
    sys.exit(main_as("run_gradio.py"))
