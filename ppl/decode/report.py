"""What `ppl solve` shows and writes: a table, a JSON summary, netCDF, parquet and plots."""

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from ppl import arviz_adapter, plots
from ppl.decode.methods import METHODS
from ppl.decode.replay import accuracy_by_budget
from ppl.decode.results import Decoding

FILES = ("records.parquet", "answers.parquet", "run.nc", "accuracy.png", "ess.png", "reliability.png")


def table(decoding: Decoding, *, level: float = 0.9) -> Table:
    """One row for each method; counts are means a problem, seconds the whole run's."""
    view = Table(title=None, header_style="bold", box=None, pad_edge=False)
    view.add_column("method")
    for name in (f"accuracy [{level:.0%}]", "P(right)", "Brier", "log Z", "ESS", "tokens", "reward calls", "seconds"):
        view.add_column(name, justify="right")
    for row in decoding.summary(level=level).itertuples():
        evidence = "-" if math.isnan(row.log_evidence) else f"{row.log_evidence:.2f} ± {row.log_evidence_se:.2f}"
        view.add_row(
            row.method,
            f"{row.accuracy:.1%} [{row.lower:.1%}, {row.upper:.1%}]",
            f"{row.probability:.2f}",
            f"{row.brier:.3f}",
            evidence,
            "-" if math.isnan(row.ess) else f"{row.ess:.1f}",
            f"{row.generated_tokens:.0f}",
            f"{row.reward_calls:.0f}",
            f"{row.seconds:.1f}",
        )
    return view


def as_json(decoding: Decoding, *, level: float = 0.9) -> dict[str, Any]:
    """The table's figures; what a method does not have is null."""
    methods = []
    for row in decoding.summary(level=level).to_dict("records"):
        row = {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
        interval = [row.pop("lower"), row.pop("upper")]
        methods.append(
            {"name": row.pop("method"), "accuracy": row.pop("accuracy"), "accuracy_interval": interval, **row}
        )
    return {"level": level, "problems": int(decoding.answers.problem.nunique()), "methods": methods}


def write(decoding: Decoding, out: Path, *, budget: int, single_answer: bool, level: float = 0.9) -> list[Path]:
    """Write `FILES` to `out`; returns their paths."""
    records, answers, netcdf, accuracy, ess, reliability = (out / name for name in FILES)
    decoding.records.to_parquet(records)
    decoding.answers.to_parquet(answers)
    arviz_adapter.save_netcdf(decoding.to_arviz(), netcdf)
    plots.accuracy_against_tokens(_curves(decoding, budget, single_answer, level)).savefig(accuracy, dpi=150)
    paths = [records, answers, netcdf, accuracy]
    if decoding.ess:
        plots.ess_by_step(decoding.ess, budget).savefig(ess, dpi=150)
        paths.append(ess)
    # The last method named is the one that a user came for; `sample` states no usable probability.
    method = decoding.answers.method.iloc[-1]
    stated = decoding.answers[decoding.answers.method == method]
    if stated.correct.isin([0.0, 1.0]).all():
        figure = plots.reliability(stated.probability.to_numpy(), stated.correct.to_numpy().astype(int))
        figure.suptitle(f"P(right) as {method} states it")
        figure.savefig(reliability, dpi=150)
        paths.append(reliability)
    return paths


def write_json(decoding: Decoding, path: Path, *, level: float = 0.9) -> None:
    """Write `as_json` to `path`, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(as_json(decoding, level=level), indent=2) + "\n")
    partial.replace(path)


def _curves(decoding: Decoding, budget: int, single_answer: bool, level: float) -> pd.DataFrame:
    """Accuracy against tokens: selectors of plain samples replayed at smaller budgets, filters as one point each."""
    sizes = sorted({2**i for i in range(budget.bit_length())} | {budget})
    sizes = [size for size in sizes if size <= budget]
    sampled = [name for name in decoding.answers.method.unique() if METHODS[name].target is None]
    summary = decoding.summary(level=level).rename(columns={"generated_tokens": "tokens"})
    parts = []
    for name in sampled:
        if METHODS[name].draws_one:
            continue
        pool = decoding.records.frame
        pool = type(decoding.records)(pool[pool.method == sampled[0]])
        curve = accuracy_by_budget(pool, METHODS[name].select, single_answer=single_answer, budgets=sizes, level=level)
        parts.append(curve.assign(method=name))
    points = summary[[name not in sampled or METHODS[name].draws_one for name in summary.method]]
    columns = ["method", "tokens", "accuracy", "lower", "upper"]
    return pd.concat([points[columns], *(part[columns] for part in parts)], ignore_index=True)
