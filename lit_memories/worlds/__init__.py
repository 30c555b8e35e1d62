"""Pictures with known factors, and what is made of them: classifier, autoencoder, text-to-image models."""
