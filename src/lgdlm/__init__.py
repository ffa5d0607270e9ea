"""Bidirectional text and latent diffusion language models."""

__version__ = "0.1.0"
