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
from ppl.files import replacing
from ppl.records import Records

_JSON_KEYS = (
    "name", "accuracy", "accuracy_interval", "brier", "log_evidence", "log_evidence_se", "ess", "generated_tokens",
    "reward_calls", "seconds", "probability", "prompt_tokens", "reward_tokens",
)  # fmt: skip
FILES = ("records.parquet", "answers.parquet", "run.nc", "accuracy.png", "ess.png", "reliability.png")


def table(decoding: Decoding, *, level: float = 0.9) -> Table:
    """One row for each method; counts are means a problem, seconds the whole run's."""
    view = Table(title=None, header_style="bold", box=None, pad_edge=False)
    view.add_column("method", no_wrap=True)
    accuracy = f"accuracy % [{level:.0%}]"
    for name in (accuracy, "P(right)", "Brier", "log Z", "ESS", "tokens", "reward calls", "seconds"):
        view.add_column(name, justify="right", no_wrap=True)
    for row in decoding.summary(level=level).to_dict("records"):
        percent = [100 * row[name] for name in ("accuracy", "lower", "upper")]
        view.add_row(
            row["method"],
            "-" if math.isnan(percent[0]) else "{:.1f} [{:.1f}, {:.1f}]".format(*percent),
            _number(row["probability"], 2),
            _number(row["brier"], 3),
            "-" if math.isnan(row["log_evidence"]) else f"{row['log_evidence']:.2f} ± {row['log_evidence_se']:.2f}",
            _number(row["ess"], 1),
            _number(row["generated_tokens"], 0),
            _number(row["reward_calls"], 0),
            _number(row["seconds"], 1),
        )
    return view


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def as_json(decoding: Decoding, *, level: float = 0.9) -> dict[str, Any]:
    """The table's figures; what a method does not have is null.

    `methods` has one entry for each: `name`, `accuracy`, `accuracy_interval` (both ends), `brier`, `log_evidence`,
    `log_evidence_se`, `ess`, `generated_tokens`, `reward_calls`, `seconds`, and besides these `probability`,
    `prompt_tokens` and `reward_tokens`.
    """
    methods = []
    for row in decoding.summary(level=level).to_dict("records"):
        row = {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
        row |= {"name": row["method"], "accuracy_interval": [row["lower"], row["upper"]]}
        methods.append({name: row[name] for name in _JSON_KEYS})
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
    with replacing(path) as partial:
        partial.write_text(json.dumps(as_json(decoding, level=level), indent=2) + "\n")


def _curves(decoding: Decoding, budget: int, single_answer: bool, level: float) -> pd.DataFrame:
    """Accuracy against tokens: selectors of plain samples replayed at smaller budgets, filters as one point each."""
    sizes = sorted({2**i for i in range(budget.bit_length())} | {budget})
    sizes = [size for size in sizes if size <= budget]
    summary = decoding.summary(level=level).rename(columns={"generated_tokens": "tokens"})
    records, parts = decoding.records.frame, []
    sampled = [name for name in summary["method"] if not METHODS[name].source.weighs]
    for name in summary["method"]:
        part = summary.loc[summary["method"] == name]
        if name in sampled and not METHODS[name].draws_one:
            pool, select = Records(records.loc[records["method"] == sampled[0]]), METHODS[name].select
            part = accuracy_by_budget(pool, select, single_answer=single_answer, budgets=sizes, level=level)
        parts.append(part.assign(method=name)[["method", "tokens", "accuracy", "lower", "upper"]])
    return pd.concat(parts, ignore_index=True)
