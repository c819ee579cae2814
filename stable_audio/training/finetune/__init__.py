"""Fine-tune a stored model on a folder of sounds: read it, decide, train, and compare before with after.

clips.py      the folder: what can be used, and its captions
sizing.py     steps, rates and sizes as functions of the data
section.py    the `training` section, which published checkpoints lack
cache.py      latents and text features on disk, which later runs read again
fitting.py    batch size and accumulation that fit the memory; the time of a step
decided.py    everything that was decided, as ordinary files
listening.py  the page: before and after from the same noise, and the loss by noise level
command.py    all of it in order
"""
