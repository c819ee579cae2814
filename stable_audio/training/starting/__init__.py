"""What a run starts with, before its first step.

start.py      the model of a new run: built, and filled with weights
continued.py  the model of a run that goes on
adapters.py   the model that an adapter changes
refusals.py   weights with which no run can start
precision.py  what `--precision auto` stands for
schedules.py  LR schedules that end
agreement.py  what all processes must have in common
"""
