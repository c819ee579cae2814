"""Train a model. `python train.py --help` lists the options; the same as `stable-audio train`."""

import sys

from stable_audio.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
