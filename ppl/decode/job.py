"""The resumable job behind `ppl solve`: methods on a task's problems, journalled as it goes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax

from ppl.decode import remote
from ppl.decode.engine import even_batch, plan_for
from ppl.decode.journal import Journal
from ppl.decode.methods import (
    DEFAULTS,
    Options,
    check_rewards,
    decode_problems,
    methods_named,
    problem_keys,
    settings_for,
)
from ppl.decode.results import Decoding
from ppl.lm import Endpoint, LanguageModel, RewardEndpoint, RewardModel, StepRewardModel
from ppl.records import Records
from ppl.tasks import Task


def solve(
    lm: LanguageModel | Endpoint,
    reward: RewardModel | StepRewardModel | RewardEndpoint | None,
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
    **Raises:** `ValueError` for settings out of range, models that do not fit the task or each other, or a journal of
    another job (see `Journal`); the folder is then as it was.
    """
    chosen = methods_named(methods)
    if options.budget < 1:
        raise ValueError(f"budget must be at least 1 solution a problem, got {options.budget}")
    if num_problems < 1:
        raise ValueError(f"problems must be at least 1, got {num_problems}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be in 0..{2**32 - 1}, got {seed}")
    problems = task.problems(num_problems)
    check_rewards(reward, chosen)
    for source in dict.fromkeys(method.source for method in chosen.values()):
        # Refused here, before a journal says that there is such a job.
        settings = settings_for(task, options, source)
        if isinstance(lm, LanguageModel) and not isinstance(reward, RewardEndpoint):
            plan_for(lm, reward, [problem.prompt for problem in problems], settings)
        else:
            remote.check(lm, reward, settings)
    policy = options.policy
    job = {
        "task": repr(task), "methods": methods, "budget": options.budget, "temperature": options.temperature,
        "top_k": options.top_k, "top_p": options.top_p, "min_p": options.min_p, "power": options.power,
        # A mask decides by its values, and a function is itself in every process: the policy's repr says neither.
        "when": eqx.tree_pformat(policy.when, short_arrays=False),
        "how": getattr(policy.how, "__name__", repr(policy.how)),
        "problems": num_problems, "seed": seed,
        "model": lm.fingerprint(), "reward": None if reward is None else reward.fingerprint(), "jax": jax.__version__,
    }  # fmt: skip
    journal = None if out is None else Journal(out, job, results=results)
    done: dict[int, Decoding] = {} if journal is None else journal.done
    key, size = jax.random.key(seed), even_batch(num_problems, options.budget)
    progress(len(done))
    for start in range(0, num_problems, size):
        batch = range(start, min(start + size, num_problems))
        if all(i in done for i in batch):
            continue
        keys = problem_keys(key, batch)
        part = decode_problems(
            lm, reward, task, [problems[i] for i in batch], keys, chosen, options, seed=seed, batch=size
        )
        split = {i: _one(part, problems[i].id, place) for place, i in enumerate(batch)}
        if journal is None:
            done |= split
        else:
            journal.write({i: one for i, one in split.items() if i not in done})
        progress(len(done))
    return Decoding.concat([done[i] for i in range(num_problems)])


def _one(part: Decoding, problem: str, place: int) -> Decoding:
    """One problem's share of a batch."""
    records = part.records.frame.loc[part.records.frame["problem"] == problem]
    answers = part.answers.loc[part.answers["problem"] == problem].reset_index(drop=True)
    return Decoding(Records(records), answers, {name: ess[place : place + 1] for name, ess in part.ess.items()})
