"""The resumable job behind `ppl solve`: methods on a task's problems, journalled as it goes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ppl.decode.engine import ROWS_PER_BATCH
from ppl.decode.journal import Journal
from ppl.decode.methods import DEFAULTS, Options, decode_problems, methods_named
from ppl.decode.results import Decoding
from ppl.lm import LanguageModel, RewardModel
from ppl.tasks import Task


def solve(
    lm: LanguageModel,
    reward: RewardModel,
    task: Task,
    *,
    methods: list[str],
    options: Options = DEFAULTS,
    num_problems: int = 100,
    seed: int = 0,
    out: Path | None = None,
    results: tuple[str, ...] = (),
    progress: Callable[[int], Any] = lambda done: None,
) -> Decoding:
    """Run `methods` on the first `num_problems` problems of `task`, in batches, with a journal in `out` if it is given.

    Batches have fixed borders, so a resumed job computes what the uninterrupted one would have, number for number.

    **Arguments:** `results`: names of files in `out` that this job will write, which must not be there without its
    journal; `progress` is called with the number of problems done.
    **Raises:** `ValueError` for settings out of range, or a journal of another job (see `Journal`).
    """
    chosen = methods_named(methods)
    if options.budget < 1:
        raise ValueError(f"budget must be at least 1 solution a problem, got {options.budget}")
    if num_problems < 1:
        raise ValueError(f"problems must be at least 1, got {num_problems}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be in 0..{2**32 - 1}, got {seed}")
    problems = task.problems(num_problems)
    job = {
        "task": repr(task), "methods": methods, "options": repr(options), "problems": num_problems, "seed": seed,
        "model": lm.fingerprint(), "reward": reward.fingerprint(), "jax": jax.__version__,
    }  # fmt: skip
    journal = None if out is None else Journal(out, job, results=results)
    done: dict[int, Decoding] = {} if journal is None else journal.done
    key, size = jax.random.key(seed), max(1, ROWS_PER_BATCH // options.budget)
    progress(len(done))
    for start in range(0, num_problems, size):
        batch = range(start, min(start + size, num_problems))
        if all(i in done for i in batch):
            continue
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(np.asarray(batch))
        part = decode_problems(lm, reward, task, [problems[i] for i in batch], keys, chosen, options, seed=seed)
        split = {i: _one(part, problems[i].id, place) for place, i in enumerate(batch)}
        if journal is None:
            done |= split
        else:
            journal.write({i: one for i, one in split.items() if i not in done})
        progress(len(done))
    return Decoding.concat([done[i] for i in range(num_problems)])


def _one(part: Decoding, problem: str, place: int) -> Decoding:
    """One problem's share of a batch."""
    records = type(part.records)(part.records.frame[part.records.frame.problem == problem])
    answers = part.answers[part.answers.problem == problem].reset_index(drop=True)
    return Decoding(records, answers, {name: ess[place : place + 1] for name, ess in part.ess.items()})
