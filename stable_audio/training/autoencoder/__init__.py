"""Training of autoencoders.

module.py     reconstruction, with a discriminator; parts.py: its values, teaching.py: those of a teacher,
              reconstructing.py: the forward pass, latent_spread.py: what is stored as latent_scale
diffusion.py  diffusion autoencoders
demos.py      sounds during training
"""
