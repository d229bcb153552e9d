"""The decoding methods by name, and how several of them run on the same problems.

A method is a source of weighted solutions (plain samples, or a particle filter with a named target) and a selector.
Methods with the same source share its solutions, so that selectors are compared on the same attempts; each still
states the cost that it would have by itself.
"""

import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd
from jaxtyping import Array, Key

from ppl.decode import remote, selectors
from ppl.decode.engine import Decoded, Settings, decode
from ppl.decode.results import Decoding, answer_table
from ppl.decode.selectors import Selector
from ppl.decode.targets import TARGETS
from ppl.keys import as_key
from ppl.lm import Endpoint, LanguageModel, RewardEndpoint, RewardModel, StepRewardModel
from ppl.records import Records
from ppl.smc import Policy
from ppl.tasks import Problem, Task


class Method(NamedTuple):
    """`target` names the particle filter's target (None: plain samples); `reads_reward`: does it need a reward model;
    `draws_one`: it answers with one attempt, and the others only serve to estimate how often that is right."""

    select: Selector
    target: str | None
    reads_reward: bool
    draws_one: bool = False


METHODS: dict[str, Method] = {
    "sample": Method(selectors.first, None, False, draws_one=True),
    "majority": Method(selectors.majority, None, False),
    "best_of_n": Method(selectors.best_of_n, None, True),
    "weighted_best_of_n": Method(selectors.weighted_best_of_n, None, True),
    "particle_filter": Method(selectors.weighted_particles, "final_reward", True),
    "particle_filter_product": Method(selectors.weighted_particles, "product", True),
    "particle_filter_odds": Method(selectors.weighted_particles, "odds", True),
}


class Cut(NamedTuple):
    """Cut of bare prompts' solutions into steps: at most `max_steps` of at most `max_step_tokens` tokens, each ended by
    `delimiter` (one token; None: by length alone) or by the end of the text."""

    max_steps: int = 8
    max_step_tokens: int = 8
    step_delimiter: str | None = "\n"


DEFAULT_CUT = Cut()


class Options(NamedTuple):
    """How every method of a run decodes: `budget` solutions a problem, the sampling temperature, when and how to
    resample, and the cut into steps for prompts that come without a task."""

    budget: int = 32
    temperature: float = 1.0
    policy: Policy = Policy()
    cut: Cut = DEFAULT_CUT


DEFAULTS = Options()


def methods_named(names: Sequence[str]) -> dict[str, Method]:
    """The methods of those names.

    **Raises:** `ValueError` if one is unknown (listing those known) or named twice, or none is named.
    """
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise ValueError(f"method {unknown[0]!r} is not known; known are {', '.join(METHODS)}")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"methods must be one or more names, each once, got {list(names)}")
    return {name: METHODS[name] for name in names}


def run_methods(
    lm: LanguageModel | Endpoint,
    reward: RewardModel | StepRewardModel | RewardEndpoint | None,
    task_or_prompts: Task | Sequence[Problem] | Sequence[str],
    key: int | Key[Array, ""],
    methods: Sequence[str],
    *,
    options: Options = DEFAULTS,
    task: Task | None = None,
    num_problems: int = 100,
    seed: int = 0,
) -> Decoding:
    """Run several methods on the same problems at the same budget.

    **Arguments:**

    - `lm`, `reward`: both local, or both endpoints;
    - `task_or_prompts`: a task (its first `num_problems` problems are taken), problems of `task`, or bare prompts,
      which nothing verifies;
    - `key`: each problem's key is folded from it and the problem's place, so a problem's result does not depend on
      the number of problems;
    - `seed`: what the records say about the key.

    **Raises:** `ValueError` for a budget below 1, unknown methods, or a method that lacks its reward model.
    """
    chosen = methods_named(methods)
    if options.budget < 1:
        raise ValueError(f"budget must be at least 1 solution a problem, got {options.budget}")
    if reward is None and any(method.reads_reward for method in chosen.values()):
        lacking = next(name for name, method in chosen.items() if method.reads_reward)
        raise ValueError(f"method {lacking!r} needs a reward model, got None")
    if isinstance(task_or_prompts, Task):
        task, problems = task_or_prompts, list(task_or_prompts.problems(num_problems))
    else:
        problems = [Problem(str(i), p) if isinstance(p, str) else p for i, p in enumerate(task_or_prompts)]
    keys = problem_keys(as_key(key), range(len(problems)))
    return decode_problems(lm, reward, task, problems, keys, chosen, options, seed=seed)


def problem_keys(key: Key[Array, ""], places: Sequence[int]) -> Key[Array, " problems"]:
    """One key for each problem, by its place: the same alone, in a batch, and in a resumed job."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(np.asarray(places))


def decode_problems(
    lm: LanguageModel | Endpoint,
    reward: RewardModel | StepRewardModel | RewardEndpoint | None,
    task: Task | None,
    problems: Sequence[Problem],
    keys: Key[Array, " problems"],
    chosen: dict[str, Method],
    options: Options,
    *,
    seed: int,
    batch: int | None = None,
) -> Decoding:
    """Run methods on problems with one key each: what `run_methods` and the resumable job share.

    **Arguments:** `batch`: problems in one compiled call, see `ppl.decode.engine.decode`.
    """
    records, answers, ess = [], [], {}
    prompts = [problem.prompt for problem in problems]
    for target in dict.fromkeys(method.target for method in chosen.values()):
        users = {name: method for name, method in chosen.items() if method.target == target}
        reads = any(method.reads_reward for method in users.values())
        settings = settings_for(task, options, target)
        started = time.perf_counter()
        # By the target's place in the registry: what a method draws does not hang on which others run beside it.
        place = 0 if target is None else 1 + list(TARGETS).index(target)
        source_keys = jax.vmap(lambda k, place=place: jax.random.fold_in(k, place))(keys)
        judge = reward if reads else None
        if isinstance(lm, LanguageModel) and not isinstance(judge, RewardEndpoint):
            out = decode(lm, judge, prompts, source_keys, settings, batch=batch)
        else:
            out = remote.decode(lm, judge, prompts, source_keys, settings)
        seconds = (time.perf_counter() - started) / len(problems)
        # Attempts that several methods read are written once, under the first of them.
        first_user = next(iter(users))
        for i, problem in enumerate(problems):
            attempts = _attempts(task, problem, out, i, method=first_user, seed=seed)
            records.append(attempts)
            for name, method in users.items():
                answers.append(_answer(name, method, task, problem, attempts, out, i, seconds, seed))
        if target is not None:
            for name in users:
                ess[name] = np.asarray(out.ess, dtype=float)
    frame = answer_table(answers)
    order = {name: place for place, name in enumerate(chosen)}
    frame = frame.sort_values("method", key=lambda names: names.map(order), kind="stable", ignore_index=True)
    return Decoding(Records.concat(records), frame, ess)


def settings_for(task: Task | None, options: Options, target: str | None) -> Settings:
    """How `target` is decoded: a task brings its own cut into steps, bare prompts take that of `options`.

    **Raises:** `ValueError` naming the option that is out of range.
    """
    cut = options.cut if task is None else task
    return Settings(
        num_particles=options.budget,
        max_steps=cut.max_steps,
        max_step_tokens=cut.max_step_tokens,
        delimiter=cut.step_delimiter,
        target=target,
        temperature=options.temperature,
        policy=options.policy,
    )


def _attempts(task: Task | None, problem: Problem, out: Decoded, i: int, *, method: str, seed: int) -> Records:
    texts, num = out.texts[i], len(out.texts[i])
    prompt_tokens = int(np.asarray(out.cost.prompt_tokens)[i])
    return Records(
        pd.DataFrame(
            {
                "problem": problem.id,
                "sample": np.arange(num),
                "method": method,
                "prompt": problem.prompt,
                "text": texts,
                # Without a task nobody knows where in a text its answer is: the text is the answer.
                "answer": pd.array([text if task is None else task.answer(problem, text) for text in texts], "string"),
                "correct": pd.array(
                    [None if task is None else task.verify(problem, text) for text in texts], "boolean"
                ),
                "reward": out.reward[i].astype(float),
                "log_weight": out.log_weights[i].astype(float),
                "log_prob": out.log_prob[i].astype(float),
                "log_proposal": out.log_proposal[i].astype(float),
                "prompt_tokens": prompt_tokens,
                "generated_tokens": out.generated[i].astype(int),
                "seed": seed,
                "steps": out.steps[i].astype(int),
            }
        )
    )


def _answer(
    name: str,
    method: Method,
    task: Task | None,
    problem: Problem,
    attempts: Records,
    out: Decoded,
    i: int,
    seconds: float,
    seed: int,
) -> tuple:
    choice = method.select(attempts, single_answer=task is not None and task.numeric_answers)
    frame, num = attempts.frame, len(attempts)
    # One attempt is the answer, or each could have been (`draws_one`): then what counts is the mean over them.
    stated = selectors.text_probability(attempts) if method.draws_one else np.asarray([choice.probability])
    if task is None:
        right = np.full(len(stated), np.nan)
    elif method.draws_one:
        right = frame.correct.to_numpy(dtype=float)
    else:
        right = np.asarray([float(choice.row is not None and bool(frame.correct.iloc[choice.row]))])
    weighs = method.target is not None
    cost, share = out.cost, (1 / num if method.draws_one else 1.0)
    at = lambda counts: float(np.asarray(counts)[i])  # noqa: E731
    return (
        problem.id, name, seed, choice.answer, float(right.mean()), float(stated.mean()),
        float(np.mean((stated - right) ** 2)),
        at(out.log_evidence) if weighs else np.nan, at(out.log_evidence_se) if weighs else np.nan,
        float(np.mean(out.ess[i])) if weighs else np.nan,
        at(cost.generated_tokens) * share, at(cost.prompt_tokens),
        at(cost.reward_calls) if method.reads_reward else 0.0,
        at(cost.reward_tokens) if method.reads_reward else 0.0,
        seconds * share,
    )  # fmt: skip
