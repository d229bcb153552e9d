"""The decoding methods by name, and how several of them run on the same problems.

A method is a source of weighted solutions (plain samples, or a particle filter with a named target) and a selector.
Methods with the same source share its solutions, so that selectors are compared on the same attempts; each still
states the cost that it would have by itself.
"""

import math
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
    `draws_one`: it answers with one attempt, and the others only serve to estimate how often that is right; `power`:
    its particles are weighed for a power of the language model."""

    select: Selector
    target: str | None
    reads_reward: bool
    draws_one: bool = False
    power: bool = False

    @property
    def source(self) -> "Source":
        """What its solutions come from, which methods may share."""
        return Source(self.target, self.power)


class Source(NamedTuple):
    """Where weighted solutions come from: plain samples, or a particle filter with a target, a power, or both."""

    target: str | None
    power: bool

    @property
    def weighs(self) -> bool:
        """Is it a particle filter?"""
        return self.target is not None or self.power


METHODS: dict[str, Method] = {
    "sample": Method(selectors.first, None, False, draws_one=True),
    "majority": Method(selectors.majority, None, False),
    "best_of_n": Method(selectors.best_of_n, None, True),
    "weighted_best_of_n": Method(selectors.weighted_best_of_n, None, True),
    "particle_filter": Method(selectors.weighted_particles, "final_reward", True),
    "particle_filter_product": Method(selectors.weighted_particles, "product", True),
    "particle_filter_odds": Method(selectors.weighted_particles, "odds", True),
    "power_sampling": Method(selectors.heaviest_particles, None, False, power=True),
}


class Cut(NamedTuple):
    """Cut of bare prompts' solutions into steps: at most `max_steps` of at most `max_step_tokens` tokens, each ended by
    `delimiter` (one token; None: by length alone) or by the end of the text."""

    max_steps: int = 8
    max_step_tokens: int = 8
    step_delimiter: str | None = "\n"


DEFAULT_CUT = Cut()


class Options(NamedTuple):
    """How every method of a run decodes: `budget` solutions a problem; what tokens are drawn from (`ppl.lm.Proposal`);
    when and how to resample; the cut into steps for prompts that come without a task; and the power of the language
    model that `power_sampling` targets, which it proposes for at `temperature / power` (Karan and Du 2025 take 4)."""

    budget: int = 32
    temperature: float = 1.0
    policy: Policy = Policy()
    cut: Cut = DEFAULT_CUT
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    power: float = 4.0


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


def check_rewards(reward: RewardModel | StepRewardModel | RewardEndpoint | None, chosen: dict[str, Method]) -> None:
    """**Raises:** `ValueError` naming a method that lacks its reward model."""
    lacking = [name for name, method in chosen.items() if method.reads_reward]
    if reward is None and lacking:
        raise ValueError(f"method {lacking[0]!r} needs a reward model, got None")


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

    - `lm`, `reward`: both local, or an endpoint with any reward model;
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
    check_rewards(reward, chosen)
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
    for source in dict.fromkeys(method.source for method in chosen.values()):
        users = {name: method for name, method in chosen.items() if method.source == source}
        reads = any(method.reads_reward for method in users.values())
        settings = settings_for(task, options, source)
        started = time.perf_counter()
        # By the source's place in the registry: what a method draws does not hang on which others run beside it.
        place = [Source(None, False), *(Source(name, False) for name in TARGETS), Source(None, True)].index(source)
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
        if source.weighs:
            for name in users:
                ess[name] = np.asarray(out.ess, dtype=float)
    frame = answer_table(answers)
    order = {name: place for place, name in enumerate(chosen)}
    frame = frame.sort_values("method", key=lambda names: names.map(order), kind="stable", ignore_index=True)
    return Decoding(Records.concat(records), frame, ess)


def settings_for(task: Task | None, options: Options, source: Source) -> Settings:
    """How solutions of `source` are written: a task brings its own cut into steps, bare prompts take that of `options`.

    **Raises:** `ValueError` naming the option that is out of range.
    """
    cut = options.cut if task is None else task
    if source.power and not 0 < options.power < math.inf:
        raise ValueError(f"power must be above 0 and finite, got {options.power}")
    return Settings(
        num_particles=options.budget,
        max_steps=cut.max_steps,
        max_step_tokens=cut.max_step_tokens,
        delimiter=cut.step_delimiter,
        target=source.target,
        # The law of a token that is nearest to the target without a look ahead.
        temperature=options.temperature / options.power if source.power else options.temperature,
        policy=options.policy,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        power=options.power if source.power else None,
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
    weighs = method.source.weighs
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
