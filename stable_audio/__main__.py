"""`python -m stable_audio` is the `stable-audio` command."""

import sys

from stable_audio.cli import main

if __name__ == "__main__":
    sys.exit(main())
