"""What can be wrong with a run, each finding with a number and a sentence of advice."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped
from scipy.special import chdtri

from ppl.calibration import holm
from ppl.inference.convergence import convergence

# Of the log likelihood: 1 to 1.7 costs least (Doucet, Pitt, Deligiannidis & Kohn 2015).
_NOISE = 2.0
_R_HAT, _ESS_PER_CHAIN, _E_BFMI, _K_HAT, _ACCEPTANCE = 1.01, 100, 0.3, 0.7, 0.1
# Runs that agree are told to disagree this often; moves may stop this far above their aim for reasons of noise.
_FALSE_ALARM, _SLACK = 1e-3, 0.1


class Advice(NamedTuple):
    """One finding: the statistic by name, its value, and what to do."""

    statistic: str
    value: float
    advice: str

    def __str__(self) -> str:
        return f"{self.statistic} = {self.value:.4g}: {self.advice}"


def diagnose(
    unconstrained: Float[np.ndarray, "chains draws d"],
    log_weights: Float[np.ndarray, "chains draws"] | None,
    stats: Mapping[str, Shaped[np.ndarray, "chains ..."]],
    draws: Mapping[str, Shaped[np.ndarray, "chains draws ..."]],
    attrs: Mapping[str, str | int | float],
) -> list[Advice]:
    """Findings about chains (R-hat, ESS, divergences, E-BFMI), particles (ESS, moves, runs) and approximations (k-hat).

    **Arguments:** as the fields of `Posterior`.

    **Source:** Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021) for R-hat and ESS; Betancourt (2016) for E-BFMI;
    Vehtari, Simpson, Gelman, Yao & Gabry (2024) for k-hat.
    """
    found = _of_weights(log_weights, stats) if log_weights is not None else _of_chains(unconstrained, stats)
    found += _of_runs(stats)
    return [
        *found,
        *_of_sampler(stats, unconstrained.shape),
        *_of_moves(stats, unconstrained, attrs),
        *_of_values(draws),
    ]


def e_bfmi(energy: Float[np.ndarray, "chains draws"]) -> Float[np.ndarray, " chains"]:
    """Energy Bayesian fraction of missing information: how far one step moves the energy, over its whole spread."""
    return (np.diff(energy, axis=1) ** 2).mean(axis=1) / energy.var(axis=1)


def _of_chains(unconstrained: np.ndarray, stats: Mapping[str, np.ndarray]) -> list[Advice]:
    chains, num, _ = unconstrained.shape
    if (
        num < 4
        or not unconstrained.size
        or not np.all(np.isfinite(unconstrained))
        or np.any(np.ptp(unconstrained, axis=(0, 1)) == 0)
    ):
        return []
    if "k_hat" in stats:  # independent draws of an approximation: nothing to converge
        return []
    found = []
    sizes, r_hats = convergence(unconstrained)
    r_hat, bulk = float(np.max(r_hats)), float(np.min(sizes))
    if r_hat > _R_HAT:
        advice = (
            f"above {_R_HAT}, chains have not found one distribution; run longer, reparametrise, or try TemperedSMC"
        )
        found.append(Advice("r_hat", r_hat, advice))
    if bulk < _ESS_PER_CHAIN * chains:
        advice = f"fewer than {_ESS_PER_CHAIN} effective draws a chain; take more draws, intervals are noisy"
        found.append(Advice("ess_bulk", bulk, advice))
    return found


def _of_weights(log_weights: np.ndarray, stats: Mapping[str, np.ndarray]) -> list[Advice]:
    weights = np.exp(log_weights.astype(np.float64) - log_weights.max())
    size = float(weights.sum() ** 2 / (weights**2).sum())
    if size < 0.1 * weights.size:
        advice = f"of {weights.size} weighted draws few count; use more, or a method that moves them (TemperedSMC)"
        return [Advice("ess", size, advice)]
    return []


def _of_sampler(stats: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> list[Advice]:
    found = []
    if "diverging" in stats and (number := int(stats["diverging"].sum())):
        advice = (
            "transitions diverged, where the posterior is too sharply curved for the step size; raise target_accept, "
            "or write the model non-centred"
        )
        found.append(Advice("divergences", number, advice))
    if "energy" in stats and stats["energy"].shape == shape[:2] and shape[1] > 1:
        lowest = float(np.min(e_bfmi(stats["energy"].astype(np.float64))))
        if lowest < _E_BFMI:
            advice = f"below {_E_BFMI}, momentum does not reach all energies (heavy tails); reparametrise"
            found.append(Advice("e_bfmi", lowest, advice))
    if "k_hat" in stats and (worst := float(np.max(stats["k_hat"]))) > _K_HAT:
        advice = f"above {_K_HAT}, the approximation misses the posterior's tails; do not trust its intervals, use NUTS"
        found.append(Advice("k_hat", worst, advice))
    if "log_likelihood_sd" in stats and (noise := float(np.max(stats["log_likelihood_sd"]))) > _NOISE:
        advice = (
            f"above {_NOISE}, the particle filter is so noisy that the chain stays for long where it was lucky; take "
            "more num_particles, or a guided filter"
        )
        found.append(Advice("log_likelihood_sd", noise, advice))
    if "insertion_p_value" in stats and (p_value := float(holm(stats["insertion_p_value"]).min())) < _FALSE_ALARM:
        advice = (
            f"below {_FALSE_ALARM}, new live points do not lie as the others do: they had not forgotten where they "
            "began. Log evidence is off by more than its stated error; raise num_moves, or take TemperedSMC"
        )
        found.append(Advice("insertion_p_value", p_value, advice))
    if "non_finite" in stats and (number := int(stats["non_finite"].sum())):
        advice = "log densities were NaN and counted as -inf; look for a division by zero or a log of a negative number"
        found.append(Advice("non_finite", number, advice))
    return found


def _of_runs(stats: Mapping[str, np.ndarray]) -> list[Advice]:
    """Do runs differ by more than each says that it errs? If not, their spread is chi-square."""
    if "run_log_evidence_se" not in stats or len(stats["run_log_evidence"]) < 2:
        return []
    evidence = stats["run_log_evidence"].astype(np.float64)
    errors = stats["run_log_evidence_se"].astype(np.float64)
    stated = errors[np.isfinite(errors) & (errors > 0)]
    if not stated.size or not np.all(np.isfinite(evidence)):
        return []
    ratio = float(evidence.std(ddof=1) / np.sqrt((stated**2).mean()))
    freedom = len(evidence) - 1
    if ratio**2 * freedom <= chdtri(freedom, _FALSE_ALARM):
        return []
    advice = (
        "times what each states the runs differ in log evidence: some have missed a mode or a narrow part; take more "
        "particles (`draws`) and runs (`chains`), and believe the stated error of the whole only as a lower bound"
    )
    return [Advice("run_log_evidence", ratio, advice)]


def _of_moves(
    stats: Mapping[str, np.ndarray], unconstrained: np.ndarray, attrs: Mapping[str, str | int | float]
) -> list[Advice]:
    """The moves of particles between temperatures."""
    found = []
    if "move_acceptance" in stats:
        rates = stats["move_acceptance"]
        lowest = float(np.nanmin(rates)) if np.any(np.isfinite(rates)) else np.nan
        if lowest < _ACCEPTANCE:
            advice = "moves were nearly all refused at some temperature; use more moves a step, or another kernel"
            found.append(Advice("move_acceptance", lowest, advice))
    if "move_correlation" in stats and np.any(np.isfinite(stats["move_correlation"])):
        aim = float(attrs.get("correlation", 0.1)) + 3 / unconstrained.shape[1] ** 0.5
        highest = float(np.nanmax(stats["move_correlation"]))
        if highest > aim + _SLACK:
            advice = (
                f"above the {aim:.2g} aimed at, particles had not forgotten where they were when moves stopped at some "
                "temperature. Between far modes this is so, and no more than particles share out their weights; "
                "otherwise raise max_moves or num_moves, take another kernel, or reparametrise"
            )
            found.append(Advice("move_correlation", highest, advice))
    if attrs.get("kernel") == "NUTSMove":
        scale = float(np.nanmin(stats["move_scale"]))
        advice = (
            "one step size for all particles does not move those in a narrow neck, and log evidence may be too small "
            "by more than its error without another sign; compare with the kernel 'hmc', whose step sizes vary"
        )
        found.append(Advice("move_scale", scale, advice))
    return found


def _of_values(draws: Mapping[str, np.ndarray]) -> list[Advice]:
    found = []
    for name, value in draws.items():
        if value.dtype.kind == "f" and (number := int((~np.isfinite(value)).sum())):
            found.append(
                Advice(f"non_finite[{name}]", number, "values are not finite; check the site's transformation")
            )
    return found
