"""The layout of diffusers' `StableAudio3Pipeline`: written, and read as a checkpoint."""
