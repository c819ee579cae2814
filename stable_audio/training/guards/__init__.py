"""Guards of optimizer steps: bad steps change no weight, and a run that cannot go on leaves its weights.

checks.py         what every training does about a bad step: skip it, or go back
finite.py         gradients that are not finite, or far above usual_norm.py
explosion.py      a loss that explodes
finite_values.py  weights that are no numbers, in a model or a file
rescue.py         who saves a run after an error
"""
