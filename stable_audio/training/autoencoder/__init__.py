"""Training of autoencoders.

module.py     reconstruction, with a discriminator; parts.py: its values, teaching.py: those of a teacher
diffusion.py  diffusion autoencoders
demos.py      sounds during training
"""
