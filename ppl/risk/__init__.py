"""Repeated sampling with calibrated uncertainty: tables of attempts in, statements with intervals out."""

from ppl.risk.attempts import Attempts, StoppingRule, stop_at_success
from ppl.risk.results import DrawsResult, Estimate

__all__ = ["Attempts", "DrawsResult", "Estimate", "StoppingRule", "stop_at_success"]
