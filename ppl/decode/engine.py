"""Runs the particle system of `ppl.decode.particles` over many prompts: compiled once per shape, problems as `vmap`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from ppl.cost import Ledger
from ppl.decode.particles import Judge, Plan, Solutions, solution_model
from ppl.decode.targets import TARGETS, target_named
from ppl.lm import Frame, LanguageModel, Proposal, RewardModel, StepRewardModel
from ppl.lm.padding import padded
from ppl.lm.placement import check_particles, gathered, particle_mesh
from ppl.lm.proposals import check_proposal
from ppl.lm.scoring import read_prompt_scored, score_step, start_scoring, step_slots
from ppl.lm.stops import stop_table
from ppl.smc import Policy
from ppl.smc.driver import filter as particle_filter

ROWS_PER_BATCH = 512  # rows (problems x particles) in one compiled call: bounds memory, and is how often a job journals


class Decoded(NamedTuple):
    """Solutions of several prompts, as NumPy arrays: problems first, particles second.

    `texts`: [problems][n]; `log_weights` [problems, n] with log mean exp 0; `reward` [problems, n]: P(right) of the
    whole text by the reward model, NaN without one; `reward_trace` [problems, n, max_steps]: the same after each step,
    NaN where the reward model did not read step by step; `log_evidence` and its standard error [problems]; `ess`
    [problems, max_steps]; `resampled` [problems, max_steps - 1]; `finished`: did the text end by itself; `cost`: a
    Ledger of arrays [problems].
    """

    texts: list[list[str]]
    generated: Int[np.ndarray, "problems n"]
    steps: Int[np.ndarray, "problems n"]
    finished: Bool[np.ndarray, "problems n"]
    log_prob: Float[np.ndarray, "problems n"]
    log_proposal: Float[np.ndarray, "problems n"]
    reward: Float[np.ndarray, "problems n"]
    reward_trace: Float[np.ndarray, "problems n max_steps"]
    log_weights: Float[np.ndarray, "problems n"]
    log_evidence: Float[np.ndarray, " problems"]
    log_evidence_se: Float[np.ndarray, " problems"]
    ess: Float[np.ndarray, "problems max_steps"]
    resampled: Bool[np.ndarray, "problems steps"]
    cost: Ledger


@dataclass(frozen=True)
class Settings:
    """What a decoding run is besides its models and prompts.

    `num_particles` per prompt; `max_steps`, `max_step_tokens` and `delimiter`: see `ppl.decode.particles.Plan`;
    `delimiter`: a text that ends a step, in one token or across several, or None; `target` a name of
    `ppl.decode.targets`, or None for no reward; `temperature` of the language model, above 0, with `top_k`, `top_p` and
    `min_p`: what tokens are drawn from (`ppl.lm.Proposal`); `policy`: when and how to resample, with a resampler that
    keeps weights proper (a target is hit by nothing else).

    `power`: None, and the law of texts that the target weighs is the one they are drawn from, at its temperature; or
    the law is the model's to this power, whatever they are drawn from (power sampling; 1 is the model itself), so far
    as `top_k`, `top_p` and `min_p` let them be drawn at all. With none of target, power and `must_end` there are no
    weights, and nothing is ever resampled.

    `must_end`: texts that have not ended after `max_steps` get no weight, so that the target is that of texts which do;
    without it they count as they stand.

    **Raises:** `ValueError` naming the setting that is out of range.
    """

    num_particles: int
    max_steps: int
    max_step_tokens: int
    delimiter: str | None = "\n"
    target: str | None = None
    temperature: float = 1.0
    policy: Policy = Policy()
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    power: float | None = None
    must_end: bool = False

    @property
    def weighs(self) -> bool:
        """Do texts have weights at all?"""
        return self.target is not None or self.power is not None or self.must_end

    def __post_init__(self) -> None:
        for name in ("num_particles", "max_steps", "max_step_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be above 0 and finite, got {self.temperature}")
        check_proposal(self.temperature, self.top_k, self.top_p, self.min_p)
        if self.power is not None and not 0 < self.power < math.inf:
            raise ValueError(f"power must be above 0 and finite, or None, got {self.power}")
        if not self.policy.proper:
            raise ValueError(f"policy must keep weights proper to hit a target, got how={self.policy.how}")
        if self.target is not None:
            target_named(self.target)


def decode(
    lm: LanguageModel,
    reward: RewardModel | StepRewardModel | None,
    prompts: Sequence[str],
    keys: Key[Array, " problems"],
    settings: Settings,
    *,
    batch: int | None = None,
) -> Decoded:
    """Write `settings.num_particles` solutions to each prompt: a particle filter, or plain sampling without a target.

    With a `reward` and a target the reward model reads every step; with a `reward` alone it reads the finished texts. A
    step-wise reward model reads the language model's own tokens of a step, blanks and delimiter at its end left out.

    **Arguments:** `keys` [problems]: one typed key a prompt, so that a prompt's result does not hang on its neighbours;
    `batch`: prompts in one compiled call (the last one is filled up, so that one shape compiles), by default the
    evenest split into calls of at most `ROWS_PER_BATCH` rows.
    **Raises:** `ValueError` as `plan_for`; if a log potential is NaN.
    """
    plan, reading = plan_for(lm, reward, prompts, settings)
    per_call = batch or even_batch(len(prompts), settings.num_particles)
    policy = settings.policy if settings.weighs else Policy("never")
    proposal = check_proposal(settings.temperature, settings.top_k, settings.top_p, settings.min_p)
    power = None if settings.power is None else jnp.float32(settings.power)
    ends = stop_table(lm.tokenizer, lm.config.vocab_size, [] if settings.delimiter is None else [settings.delimiter])
    table = None if ends is None else jnp.asarray(ends.table)
    ids, known = lm.pad(prompts)
    parts = []
    for start in range(0, len(prompts), per_call):
        # The last batch is filled up with its own first prompt, so that only one shape compiles.
        chosen = np.arange(start, start + per_call)
        chosen[chosen >= len(prompts)] = start
        out = _decode_batch(
            lm.graph, lm.params, None if reward is None else reward.graph, None if reward is None else reward.params,
            jnp.asarray(ids[chosen]), jnp.asarray(known[chosen]), None if reading is None else reading.chosen(chosen),
            keys[chosen], proposal, power, table,
            settings.num_particles, settings.target, policy, plan,
        )  # fmt: skip
        parts.append(gathered(out))
    tokens, written, fields, cost = jax.tree.map(lambda *xs: np.concatenate(xs)[: len(prompts)], *parts)
    texts = [
        [lm.decode(row[mask].tolist()) for row, mask in zip(rows, masks, strict=True)]
        for rows, masks in zip(tokens, written, strict=True)
    ]
    if np.isnan(fields["log_evidence"]).any():
        bad = int(np.flatnonzero(np.isnan(fields["log_evidence"]))[0])
        raise ValueError(f"a log potential is NaN for prompt {bad} ({prompts[bad]!r}): the models' weights are damaged")
    return Decoded(texts=texts, cost=cost, **fields)


def even_batch(num_prompts: int, num_particles: int) -> int:
    """Prompts in one call: the evenest split into calls of at most `ROWS_PER_BATCH` rows, so that few are filled up."""
    calls = -(-num_prompts // max(1, ROWS_PER_BATCH // num_particles))
    return -(-num_prompts // calls)


class Reading(NamedTuple):
    """What a reward model reads before the solutions, `ids` and `known` [problems, length], and around their steps."""

    ids: Int[Array | np.ndarray, "problems length"]
    known: Bool[Array | np.ndarray, "problems length"]
    frame: Frame | None

    def chosen(self, places: Int[np.ndarray, " chosen"]) -> "Reading":
        """That of some problems."""
        return Reading(jnp.asarray(self.ids[places]), jnp.asarray(self.known[places]), self.frame)


def plan_for(
    lm: LanguageModel, reward: RewardModel | StepRewardModel | None, prompts: Sequence[str], settings: Settings
) -> tuple[Plan, Reading | None]:
    """The plan that `settings` make for these models and prompts, and what the reward model reads.

    **Raises:** `ValueError` if a target comes without a reward model, the two models' vocabularies differ, there is no
    prompt, or a text could be longer than a model's context.
    """
    if settings.target is not None and reward is None:
        raise ValueError(f"target {settings.target!r} needs a reward model, got None")
    if reward is not None and reward.tokenizer.get_vocab() != lm.tokenizer.get_vocab():
        raise ValueError(f"reward model {reward.name!r} and language model {lm.name!r} have different vocabularies")
    if not prompts:
        raise ValueError("prompts: at least one is needed, got none")
    mesh = particle_mesh(lm.params)
    check_particles(mesh, "num_particles", settings.num_particles)
    if reward is not None and particle_mesh(reward.params) != mesh:
        raise ValueError(f"reward model {reward.name!r} must be loaded on the mesh of language model {lm.name!r}")
    plan = Plan(settings.max_steps, settings.max_step_tokens, lm.config.eos_token_ids, mesh, settings.must_end)
    ids, known = lm.pad(prompts)
    reading = None
    if isinstance(reward, StepRewardModel):
        heads, frame = reward.frame(prompts)
        reading = Reading(*padded(heads, reward.pad_id), frame)
    elif reward is not None:
        reading = Reading(ids, known, None)
    for model, read in ((lm, None), (reward, reading)):
        if model is None:
            continue
        before = ids.shape[1] if read is None else read.ids.shape[1]
        longest = before + plan.max_steps * step_slots(plan.max_step_tokens, None if read is None else read.frame)
        if longest > model.config.max_position_embeddings:
            raise ValueError(
                f"prompt and {plan.max_steps} steps of {plan.max_step_tokens} tokens take up to {longest} tokens, "
                f"model {model.name!r} reads {model.config.max_position_embeddings}: lower max_steps or max_step_tokens"
            )
    return plan, reading


@eqx.filter_jit
def _decode_batch(
    lm_graph: nnx.GraphDef,
    lm_params: nnx.State,
    reward_graph: nnx.GraphDef | None,
    reward_params: nnx.State | None,
    prompts: Int[Array, "problems length"],
    known: Bool[Array, "problems length"],
    reading: Reading | None,
    keys: Key[Array, " problems"],
    proposal: Proposal,
    power: Float[Array, ""] | None,
    delimiter: Int[Array, "states vocab"] | None,
    num_particles: int,
    target_name: str | None,
    policy: Policy,
    plan: Plan,
) -> tuple[Int[Array, "problems n slots"], Bool[Array, "problems n slots"], dict[str, Array], Ledger]:
    lm = nnx.merge(lm_graph, lm_params)
    reward = None if reward_graph is None else nnx.merge(reward_graph, reward_params)
    target = None if target_name is None else TARGETS[target_name]
    frame = None if reading is None else reading.frame

    def one_problem(prompt, known, heads, key):
        judge = None if reward is None else Judge(reward, heads[0], heads[1], frame)
        each_step = None if target is None else judge
        model = solution_model(lm, each_step, target, prompt, known, proposal, plan, delimiter, power)
        run = particle_filter(
            key, model, None, num_particles, policy, num_steps=plan.max_steps - 1, ancestors=False, throw=False
        )
        end: Solutions = run.particles
        spent = jax.tree.map(lambda x: x[0], end.spent)
        trace = jax.nn.sigmoid(end.log_odds) if end.scored is not None else jnp.full(end.log_odds.shape, jnp.nan)
        if judge is None:
            final = jnp.full(num_particles, jnp.nan)
        elif end.scored is not None:
            final = jax.nn.sigmoid(end.scored.log_odds)
        else:
            final, read = (_read_whole if frame is None else _read_steps)(judge, end, plan)
            spent = spent + read
        fields = {
            "generated": jnp.sum(end.written, axis=1, dtype=jnp.int32), "steps": end.steps,
            "finished": end.writing.finished, "log_prob": end.log_prob, "log_proposal": end.log_proposal,
            "reward": final, "reward_trace": trace, "log_weights": run.log_weights,
            "log_evidence": run.log_evidence, "log_evidence_se": run.log_evidence_se, "ess": run.ess,
            "resampled": run.resampled,
        }  # fmt: skip
        return end.tokens, end.written, fields, spent

    return jax.vmap(one_problem)(prompts, known, None if reading is None else (reading.ids, reading.known), keys)


def _read_whole(judge, end, plan):
    """P(right) of finished texts, each read at once, and what that cost."""
    reward, prompt, known, _ = judge
    n = end.tokens.shape[0]
    rows = jnp.concatenate([jnp.broadcast_to(prompt, (n, prompt.shape[0])), end.tokens], axis=1)
    valid = jnp.concatenate([jnp.broadcast_to(known, (n, known.shape[0])), end.written], axis=1)
    hidden, _ = reward.hidden(rows, valid)
    last = jnp.max(jnp.where(valid, jnp.arange(valid.shape[1]), 0), axis=1)
    newest = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
    read = Ledger(0, 0, n, jnp.sum(valid, dtype=jnp.int32), 0.0)
    return jax.nn.sigmoid(reward.scores(newest)[:, 0]), read


def _read_steps(judge, end, plan):
    """P(right) of finished texts, read step by step in the model's frame, and what that cost."""
    reward, prompt, known, frame = judge
    n, size, slots = end.tokens.shape[0], plan.max_step_tokens, step_slots(plan.max_step_tokens, frame)
    prefix, log_odds = read_prompt_scored(reward, prompt, known, frame)

    def one_step(scored, t):
        tokens, written = (jax.lax.dynamic_slice_in_dim(x, t * size, size, 1) for x in (end.tokens, end.written))
        return score_step(reward, prefix, scored, tokens, written, t * slots, frame)

    start = start_scoring(reward, prefix, log_odds, n=n, slots=plan.max_steps * slots)
    scored, read = jax.lax.scan(one_step, start, jnp.arange(plan.max_steps))
    tokens = jnp.sum(read, dtype=jnp.int32) + jnp.sum(known, dtype=jnp.int32)
    return jax.nn.sigmoid(scored.log_odds), Ledger(0, 0, n, tokens, 0.0)
