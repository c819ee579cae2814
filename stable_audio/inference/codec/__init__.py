"""A pretransform by itself: loading it, folders of sound to latents and back."""
