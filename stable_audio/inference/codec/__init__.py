"""A pretransform by itself: load it, encode folders of sound files into latents, and decode those."""
