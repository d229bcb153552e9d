"""One call for each method: `sample`, `majority`, `best_of_n`, `particle_filter`.

All take a language model, a task (or its problems, or bare prompts) and a key, and return a `Decoding`. The models are
local, or both are endpoints (`ppl.lm.Endpoint`, `ppl.lm.RewardEndpoint`).

- `budget`: solutions a problem; `temperature` of the language model, above 0.
- `num_problems`: how many problems of a task; `task`: what verifies problems or prompts given as a list.
- `cut`: how bare prompts without a task are cut into steps; a task knows its own.
"""

from collections.abc import Sequence

from jaxtyping import Array, Key

from ppl.decode.methods import DEFAULT_CUT, Cut, Options, run_methods
from ppl.decode.results import Decoding
from ppl.decode.targets import target_named
from ppl.lm import Endpoint, LanguageModel, RewardEndpoint, RewardModel, StepRewardModel
from ppl.smc import Policy
from ppl.tasks import Problem, Task

Prompts = Task | Sequence[Problem] | Sequence[str]


def sample(
    lm: LanguageModel | Endpoint,
    task_or_prompts: Prompts,
    key: int | Key[Array, ""],
    *,
    budget: int = 32,
    temperature: float = 1.0,
    num_problems: int = 100,
    task: Task | None = None,
    cut: Cut = DEFAULT_CUT,
) -> Decoding:
    """Plain samples; `accuracy` is pass@1, the chance that one sample is right, estimated from `budget` of them.

    **Raises:** `ValueError` if `budget` < 1 or `temperature` <= 0.
    """
    options = Options(budget, temperature, cut=cut)
    return run_methods(
        lm, None, task_or_prompts, key, ["sample"], options=options, task=task, num_problems=num_problems
    )


def majority(
    lm: LanguageModel | Endpoint,
    task_or_prompts: Prompts,
    key: int | Key[Array, ""],
    *,
    budget: int = 32,
    temperature: float = 1.0,
    num_problems: int = 100,
    task: Task | None = None,
    cut: Cut = DEFAULT_CUT,
) -> Decoding:
    """The commonest answer of `budget` samples (self-consistency). **Raises:** as `sample`."""
    options = Options(budget, temperature, cut=cut)
    return run_methods(
        lm, None, task_or_prompts, key, ["majority"], options=options, task=task, num_problems=num_problems
    )


def best_of_n(
    lm: LanguageModel | Endpoint,
    reward: RewardModel | StepRewardModel | RewardEndpoint,
    task_or_prompts: Prompts,
    key: int | Key[Array, ""],
    *,
    budget: int = 32,
    weighted: bool = False,
    temperature: float = 1.0,
    num_problems: int = 100,
    task: Task | None = None,
    cut: Cut = DEFAULT_CUT,
) -> Decoding:
    """The sample of highest reward of `budget`, or, `weighted`, the answer with the largest sum of rewards.

    **Raises:** as `sample`.
    """
    name, options = "weighted_best_of_n" if weighted else "best_of_n", Options(budget, temperature, cut=cut)
    return run_methods(lm, reward, task_or_prompts, key, [name], options=options, task=task, num_problems=num_problems)


def particle_filter(
    lm: LanguageModel | Endpoint,
    reward: RewardModel | StepRewardModel | RewardEndpoint,
    task_or_prompts: Prompts,
    key: int | Key[Array, ""],
    *,
    budget: int = 32,
    target: str = "final_reward",
    policy: Policy = Policy(),
    temperature: float = 1.0,
    num_problems: int = 100,
    task: Task | None = None,
    cut: Cut = DEFAULT_CUT,
) -> Decoding:
    """A particle filter of `budget` particles over reasoning steps, with a named target (`ppl.decode.targets`).

    The answers come with log evidence and its standard error (one run's genealogy), ESS by step, and P(right).

    **Raises:** `ValueError` for an unknown target (listing those known), a policy whose weights are not proper, and as
    `sample`.

    **Source:** Puri et al. (2025), arXiv 2502.01618, with the target named and the weights kept proper.
    """
    target_named(target)
    name = "particle_filter" if target == "final_reward" else f"particle_filter_{target}"
    options = Options(budget, temperature, policy, cut)
    return run_methods(lm, reward, task_or_prompts, key, [name], options=options, task=task, num_problems=num_problems)
