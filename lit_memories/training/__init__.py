"""Pretraining of the small model that ships: autoencoder, text-to-image, classifier."""
