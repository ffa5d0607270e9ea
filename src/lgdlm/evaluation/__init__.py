"""Evaluation: what a model knows about held-out text, every number beside its baselines."""

from lgdlm.evaluation.evaluate import evaluate
from lgdlm.evaluation.metric import METRICS, Metric
from lgdlm.evaluation.results import Results

__all__ = ["METRICS", "Metric", "Results", "evaluate"]
