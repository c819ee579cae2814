"""Batches of a run: read, prepared ahead or kept, with randomness that belongs to each clip.

loaders.py         datasets and their loaders; feed.py: the batches of one process, in resumable order
step_clips.py      the clips of a step on all processes
draws.py           all randomness of a step
encoding_ahead.py  the next batch while this one trains; latent_cache.py: latents and texts computed once
"""
