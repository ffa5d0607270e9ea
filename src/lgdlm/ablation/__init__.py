"""Ablations: variants of one configuration, trained over several seeds and compared in pairs."""
