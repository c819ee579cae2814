"""Optimizer steps: which weights are trained, at what rate, when, and their average.

optimising.py        steps of every training: turns, accumulation, clipping, LR schedules
networks.py          a trained network with its optimizer; roles.py and trainable.py: its parameter groups
gradient_release.py  steps inside the backward pass
ema.py               averages of weights, which staging.py may hold in host memory
"""
