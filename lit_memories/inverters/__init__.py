"""From an image's latent to its seed, one file an algorithm."""
