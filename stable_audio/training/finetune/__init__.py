"""Fine-tune a stored model on a folder of sounds: read it, decide, train, and compare before with after.

request.py        what is asked for
base_model.py     the model, as shapes
clips.py          the folder: what can be used, and its captions
training_data.py  latents, sounds to keep (keeping.py) and text features, which cache.py has for later runs
sizing.py         steps, rates and sizes as functions of the data
section.py        the `training` section, which published checkpoints lack
fitting.py        batch size and accumulation that fit the memory; the time of a step
ways.py           what would fit where nothing does
decided.py        everything that was decided, as ordinary files; report.py says it
comparing.py      the page: before and after from the same noise, and the loss by noise level
command.py        all of it in order
"""
