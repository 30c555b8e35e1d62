"""Pictograms, sources of images, and the Lightning data modules."""
