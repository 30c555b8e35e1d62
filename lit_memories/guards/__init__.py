"""Erasure at inference: what keeps a concept out of pictures while they are drawn, and changes no weights."""
