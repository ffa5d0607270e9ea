"""Sampling: one reverse loop along two clock paths, and the public ways to run it."""

from lgdlm.sampling.best_of import best_of
from lgdlm.sampling.decode import TextSamples, decode
from lgdlm.sampling.draw import TokenDraw
from lgdlm.sampling.infill import edit, infill
from lgdlm.sampling.interpolate import interpolate, slerp
from lgdlm.sampling.joint import sample_joint
from lgdlm.sampling.l2t import sample_text_from_latent
from lgdlm.sampling.prior import read_posterior, sample_latent_from_prior, sample_text_from_prior
from lgdlm.sampling.reverse import Moment, Steering, reverse
from lgdlm.sampling.samplers import REVEAL, SAMPLERS
from lgdlm.sampling.t2l import predict_latent, sample_latent_from_text

__all__ = [
    "REVEAL",
    "SAMPLERS",
    "Moment",
    "Steering",
    "TextSamples",
    "TokenDraw",
    "best_of",
    "decode",
    "edit",
    "infill",
    "interpolate",
    "predict_latent",
    "read_posterior",
    "reverse",
    "sample_joint",
    "sample_latent_from_prior",
    "sample_latent_from_text",
    "sample_text_from_latent",
    "sample_text_from_prior",
    "slerp",
]
