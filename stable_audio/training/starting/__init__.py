"""What a run starts with, before its first step.

start.py      the model: built, and filled with weights; adapters.py: the one that an adapter changes
precision.py  what `--precision auto` stands for
schedules.py  LR schedules that end
agreement.py  what all processes must have in common
"""
