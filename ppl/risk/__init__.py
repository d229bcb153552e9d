"""Repeated sampling with calibrated uncertainty: tables of attempts in, statements with intervals out.

- attempts: `read` (CSV, JSONL, parquet, logs of lm-evaluation-harness, inspect_ai and human-eval), `Attempts`,
  `stop_at_success`;
- one posterior: `fit`, with `RiskFit.pass_at`, `.pass_hat`, `.budget`, `.problems`, `.tails`; `BetaPrior`,
  `tail_sensitivity`;
- without bias, up to the attempts made: `pass_at_k`, `asr_at_n`, `pass_hat_k`, `g_pass_at_k`, `coverage`;
- published extrapolations: `saber`, `log_log`, `fit_discretised`, `pass_until`, `ttspm`, `beta_from_moments`;
- imperfect verifiers: `verifier`, `ceiling`, `resampling_value`, `observed_value`, `checked_positives`;
- judges and rankings: `judged_accuracy`, `judged_levels`, `judge_sensitivity`, `rank_draws` and its kin; `compare`;
- design and costs: `sampling_design`, `dynamic_sampling`, `next_problem`, `arise`, `e3`, `generation_cost`,
  `fit_rag_law`, `fit_split`;
- privacy, pairs, quantiles: `epsilon`, `pair_calibration`, `probability_interval`, `weighted_interval_score`,
  `fit_aggregation`, `conformalize`.

Every result derives from `DrawsResult`, or has its `summary`, `to_arviz` and `plot_*`.
"""

from ppl.risk.arise import Arise, arise
from ppl.risk.attempts import Attempts, StoppingRule, stop_at_success
from ppl.risk.beta_binomial import BetaPrior
from ppl.risk.comparison import Comparison, compare
from ppl.risk.conformal import Conformal, conformalize
from ppl.risk.design import SamplingDesign, sampling_design
from ppl.risk.discretised import DiscretisedFit, fit_discretised
from ppl.risk.dynamic_sampling import SamplingRuns, dynamic_sampling
from ppl.risk.e3 import E3, E3Comparison, compare_e3, e3
from ppl.risk.false_positives import CheckedPositives, FalseShareTrend, checked_positives, false_share_trend
from ppl.risk.fit import Budget, RiskFit, fit
from ppl.risk.genrm import SplitLaw, fit_split, verification_cost
from ppl.risk.kinetics import ModelShape, affordable_trials, generation_cost
from ppl.risk.log_log import LogLogLine, log_log
from ppl.risk.moments import BetaMoments, beta_from_moments
from ppl.risk.next_problem import NextProblem, next_problem
from ppl.risk.observed_value import observed_value
from ppl.risk.pairs import (
    PairCalibration,
    epistemic_variance,
    hallucination_bound,
    pair_calibration,
    probability_interval,
    problem_moments,
)
from ppl.risk.pass_at import Coverage, asr_at_n, coverage, g_pass_at_k, mg_pass_at_k, pass_at_k, pass_hat_k
from ppl.risk.pass_until import PassUntil, TaskLaw, pass_until, task_law
from ppl.risk.prevalence import JudgedAccuracy, Verdicts, judged_accuracy
from ppl.risk.privacy import EpsilonResult, epsilon, epsilon_from_rates, epsilon_interval, epsilon_per_model
from ppl.risk.quantile_aggregation import Aggregation, fit_aggregation
from ppl.risk.quantiles import (
    QuantileScores,
    isotonic_quantiles,
    pinball_loss,
    score,
    sort_quantiles,
    weighted_interval_score,
)
from ppl.risk.rag_law import RagLaw, effective_context, fit_rag_law
from ppl.risk.rankings import Ranking, rank_counts, rank_draws, rank_levels, rank_scores
from ppl.risk.readers import Reading, read
from ppl.risk.resampling_value import (
    Optimum,
    ResamplingValue,
    acceptance_value,
    beta_population,
    resampling_value,
)
from ppl.risk.results import DrawsResult, Estimate
from ppl.risk.saber import SaberFit, saber
from ppl.risk.simplex import JudgedLevels, JudgePrior, judge_sensitivity, judged_levels
from ppl.risk.tails import TailSensitivity, tail_sensitivity
from ppl.risk.ttspm import TTSPM, ttspm
from ppl.risk.verifiers import Ceiling, VerifierPosterior, ceiling, ceiling_from_counts, verifier

__all__ = [
    "E3",
    "TTSPM",
    "Aggregation",
    "Arise",
    "Attempts",
    "BetaMoments",
    "BetaPrior",
    "Budget",
    "Ceiling",
    "CheckedPositives",
    "Comparison",
    "Conformal",
    "Coverage",
    "DiscretisedFit",
    "DrawsResult",
    "E3Comparison",
    "EpsilonResult",
    "Estimate",
    "FalseShareTrend",
    "JudgePrior",
    "JudgedAccuracy",
    "JudgedLevels",
    "LogLogLine",
    "ModelShape",
    "NextProblem",
    "Optimum",
    "PairCalibration",
    "PassUntil",
    "QuantileScores",
    "RagLaw",
    "Ranking",
    "Reading",
    "ResamplingValue",
    "RiskFit",
    "SaberFit",
    "SamplingDesign",
    "SamplingRuns",
    "SplitLaw",
    "StoppingRule",
    "TailSensitivity",
    "TaskLaw",
    "Verdicts",
    "VerifierPosterior",
    "acceptance_value",
    "affordable_trials",
    "arise",
    "asr_at_n",
    "beta_from_moments",
    "beta_population",
    "ceiling",
    "ceiling_from_counts",
    "checked_positives",
    "compare",
    "compare_e3",
    "conformalize",
    "coverage",
    "dynamic_sampling",
    "e3",
    "effective_context",
    "epistemic_variance",
    "epsilon",
    "epsilon_from_rates",
    "epsilon_interval",
    "epsilon_per_model",
    "false_share_trend",
    "fit",
    "fit_aggregation",
    "fit_discretised",
    "fit_rag_law",
    "fit_split",
    "g_pass_at_k",
    "generation_cost",
    "hallucination_bound",
    "isotonic_quantiles",
    "judge_sensitivity",
    "judged_accuracy",
    "judged_levels",
    "log_log",
    "mg_pass_at_k",
    "next_problem",
    "observed_value",
    "pair_calibration",
    "pass_at_k",
    "pass_hat_k",
    "pass_until",
    "pinball_loss",
    "probability_interval",
    "problem_moments",
    "rank_counts",
    "rank_draws",
    "rank_levels",
    "rank_scores",
    "read",
    "resampling_value",
    "saber",
    "sampling_design",
    "score",
    "sort_quantiles",
    "stop_at_success",
    "tail_sensitivity",
    "task_law",
    "ttspm",
    "verification_cost",
    "verifier",
    "weighted_interval_score",
]
