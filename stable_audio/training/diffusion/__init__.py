"""Training of diffusion models.

module.py       the step; prepared.py: its batch, with padding by frame_masks.py and masks of inpainting.py;
                loss_means.py: how items are weighed
timed.py        what every training that draws t shares
encoding.py     latents of the sound of a batch
demos.py        sounds during training, of prompts and of the clips that batch_clips.py keeps
"""
