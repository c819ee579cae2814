"""Render audio from a model. `python infer.py --help` lists the options; as `stable-audio generate`."""

import sys

from stable_audio.cli import main

if __name__ == "__main__":
    sys.exit(main(["generate", *sys.argv[1:]]))
