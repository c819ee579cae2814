"""Callbacks of a run, which act around its steps, and what only they use.

build.py makes all of a run. base.py is what callbacks of steps share.
"""
