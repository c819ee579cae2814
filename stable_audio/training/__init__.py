"""Training: Lightning modules, losses, averages of weights, demos, loggers, the assembly of a run.

Nothing is imported here, so that `stable_audio.training.ema` and the like work without Lightning.
"""
