"""Check a model file and a dataset file before training.

report.py     every problem, and what a run would need: `stable-audio check`
footprint.py  its memory
rehearsal.py  one step, demo, save and reload
deadline.py   a limit of time
"""
