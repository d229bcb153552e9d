"""What `ppl risk` shows and writes: what was understood, figures with intervals, warnings, JSON, netCDF and plots."""

import functools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from ppl import arviz_adapter
from ppl.files import replacing
from ppl.risk.comparison import Comparison
from ppl.risk.fit import Budget, RiskFit
from ppl.risk.pass_at import pass_hat_k
from ppl.risk.readers import Reading
from ppl.risk.results import Estimate
from ppl.risk.tails import TailSensitivity

FILES = ("problems.csv", "posterior.nc", "tails.nc", "coverage.png", "problems.png", "tails.png")


@dataclass(frozen=True, eq=False)
class Report:
    """A fit and the questions that were put to it: attempts `at`, a `rate` to reach, and a `level` of intervals."""

    reading: Reading
    fit: RiskFit
    at: tuple[int, ...]
    rate: float
    level: float
    tails: TailSensitivity
    comparison: Comparison | None = None

    @functools.cached_property
    def budget(self) -> Budget:
        """Attempts until coverage is `rate`."""
        return self.fit.budget(self.rate, self.level)

    @functools.cached_property
    def corpus(self) -> Estimate:
        """Coverage of these problems at each of `at`."""
        return self.fit.pass_at(self.at, self.level)

    @functools.cached_property
    def warnings(self) -> list[str]:
        """Of the file, of the fit, and of the comparison."""
        read = [note.removeprefix("warning: ") for note in self.reading.warnings]
        compared = list(self.comparison.warnings) if self.comparison else []
        return read + self.fit.warnings(self.at, self.level) + compared


def default_at(fit: RiskFit) -> tuple[int, ...]:
    """One attempt, as many as were made, and 10 and 100 times as many."""
    return tuple(sorted({1, fit.reach, 10 * fit.reach, 100 * fit.reach}))


def understood(reading: Reading) -> Iterator[str]:
    """What was read, in a sentence each."""
    yield str(reading)
    yield from (f"note: {note}" for note in reading.notes if note not in reading.warnings)


def coverage_table(report: Report) -> Table:
    """One row for each number of attempts: these problems, all such problems, and each expert beyond the data."""
    fit, level = report.fit, report.level
    view = _table("attempts", "", f"pass@n % [{level:.0%}]", "population % [same]", *fit.usable_experts)
    corpus, population = report.corpus, fit.pass_at(report.at, level, target="population")
    experts = [np.asarray(fit.pass_at(report.at, level, expert=name).mean) for name in fit.usable_experts]
    for i, n in enumerate(report.at):
        seen = n <= fit.reach
        alone = ["" if seen else f"{100 * means[i]:.1f}" for means in experts]
        view.add_row(
            f"{n:,}", "observed" if seen else "predicted", _percent(corpus, i), _percent(population, i), *alone
        )
    return view


def tail_table(report: Report) -> Table:
    """Coverage by each family of laws, beside how well it fits."""
    tails, level = report.tails, report.level
    view = _table("family", "log-likelihood", *(f"pass@{n:,} % [{level:.0%}]" for n in tails.at))
    for family in tails.families:
        found = tails.pass_at(family, level)
        fit = tails.log_likelihood[family].sum(axis=1).mean()
        view.add_row(family, f"{fit:.1f}", *(_percent(found, i) for i in range(len(tails.at))))
    return view


def sentences(report: Report) -> Iterator[str]:
    """The budget, the experts, and pass^k where the rule allows it."""
    budget = report.budget
    yield (
        f"budget for {report.rate:.0%}: {_count(budget.attempts)} attempts a problem, {report.level:.0%} interval "
        f"[{_count(budget.interval.lower)}, {_count(budget.interval.upper)}]"
        + (", within those made" if budget.observed else "")
    )
    if report.fit.attempts.rule.name == "fixed" and (least := int(report.fit.attempts.trials.min())) > 0:
        ks = sorted({1, 2, min(4, least), least} & set(range(1, least + 1)))
        s, n = report.fit.attempts.successes, report.fit.attempts.trials
        rates = ", ".join(f"{k}: {np.mean(pass_hat_k(n, s, k)):.3f}" for k in ks)
        yield f"pass^k, all of k right (unbiased): {rates}"
    if report.comparison is not None:
        difference = report.comparison.difference(report.level)
        yield (
            f"against the other file, {len(report.comparison.problems)} shared problems: difference "
            f"{100 * difference.mean:+.1f} points [{100 * difference.interval.lower:+.1f}, "
            f"{100 * difference.interval.upper:+.1f}], P(this one better) {report.comparison.probability_better:.3f}"
        )


def as_json(report: Report) -> dict[str, Any]:
    """The figures: see docs/risk.md for each. What is beyond a million millions is null."""
    fit, corpus, budget = report.fit, report.corpus, report.budget
    found: dict[str, Any] = {
        "file": report.reading.path,
        "format": report.reading.format,
        "rule": str(fit.attempts.rule),
        "problems": len(fit.attempts),
        "trials": int(fit.attempts.trials.sum()),
        "successes": int(fit.attempts.successes.sum()),
        "reach": fit.reach,
        "level": report.level,
        "at": [
            {
                "n": n,
                "mean": float(np.asarray(corpus.mean)[i]),
                "interval": [float(np.asarray(end)[i]) for end in corpus.interval],
                "observed": n <= fit.reach,
            }
            for i, n in enumerate(report.at)
        ],
        "budget": {
            "target": report.rate,
            "attempts": _finite(budget.attempts),
            "interval": [_finite(end) for end in budget.interval],
            "observed": budget.observed,
        },
        "experts": dict(fit.experts),
        "tails": {
            family: {
                "log_likelihood": float(report.tails.log_likelihood[family].sum(axis=1).mean()),
                "mean": np.asarray(report.tails.pass_at(family).mean).tolist(),
            }
            for family in report.tails.families
        },
        "warnings": report.warnings,
    }
    if report.comparison is not None:
        difference = report.comparison.difference(report.level)
        found["comparison"] = {
            "problems": len(report.comparison.problems),
            "difference": float(difference.mean),
            "interval": [float(end) for end in difference.interval],
            "probability_better": report.comparison.probability_better,
        }
    return found


def write_json(report: Report, path: Path) -> None:
    """Write `as_json` to `path`, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(as_json(report), indent=2) + "\n", encoding="utf-8")


def write(report: Report, out: Path) -> list[Path]:
    """Write `FILES` to the folder `out`, made if it lacks; returns their paths."""
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / name for name in FILES]
    with replacing(paths[0]) as partial:
        report.fit.problems(1, report.level).to_csv(partial)
    arviz_adapter.save_netcdf(report.fit.to_arviz(), paths[1])
    arviz_adapter.save_netcdf(report.tails.to_arviz(), paths[2])
    upto = max(*report.at, report.fit.reach)
    report.fit.plot_coverage(upto, report.level).savefig(paths[3], dpi=150)
    report.fit.plot_problems(report.level).savefig(paths[4], dpi=150)
    report.tails.plot_tails(report.level).savefig(paths[5], dpi=150)
    if report.comparison is not None:
        paths.append(out / "comparison.png")
        report.comparison.plot_difference(report.level).savefig(paths[-1], dpi=150)
    return paths


def _table(*columns: str) -> Table:
    view = Table(title=None, header_style="bold", box=None, pad_edge=False)
    for number, name in enumerate(columns):
        view.add_column(name, justify="right" if number else "left", no_wrap=True)
    return view


def _percent(found: Any, i: int) -> str:
    values = (np.asarray(value)[i] for value in (found.mean, *found.interval))
    return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * value for value in values))


def _count(number: Any) -> str:
    return f"{number:,.0f}" if math.isfinite(number) else "over a million millions of"


def _finite(number: Any) -> float | None:
    return float(number) if math.isfinite(number) else None
