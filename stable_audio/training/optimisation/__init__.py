"""Optimizer steps: which weights are trained, at what rate, when, and their average.

optimising.py        steps of every training: turns, accumulation, clipping, LR schedules
declared.py          what a training says of its networks and their turns
networks.py          a trained network; building.py: its optimizer, with groups by roles.py and trainable.py
gradient_release.py  steps inside the backward pass
ema.py               averages of weights, which staging.py may hold in host memory
"""
