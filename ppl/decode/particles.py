"""Solutions written step by step as a Feynman-Kac model: the language model moves, a reward model weighs.

One step of the model is one reasoning step of all particles: some tokens from the language model's cache, then one
reading of those tokens by the reward model's cache. Both caches are part of the state, so the engine's one gather
moves them with their particle.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Key

from ppl.cost import Ledger
from ppl.decode.targets import Target
from ppl.lm.decoder import Decoder
from ppl.lm.placement import over_particles
from ppl.lm.proposals import Proposal
from ppl.lm.scoring import Frame, Scored, read_prompt_scored, score_step, start_scoring, step_slots
from ppl.lm.writing import Writing, read_prompt, start_writing, write_step
from ppl.smc import FeynmanKac


class Plan(NamedTuple):
    """How solutions are cut into steps: at most `max_steps` steps of at most `max_step_tokens` tokens; `eos`: the
    tokens that end a text; `mesh`: spreads particles over its axis `particles`; `must_end`: texts that have not ended
    after the last step are dead."""

    max_steps: int
    max_step_tokens: int
    eos: tuple[int, ...]
    mesh: Mesh | None = None
    must_end: bool = False

    @property
    def slots(self) -> int:
        return self.max_steps * self.max_step_tokens


class Judge(NamedTuple):
    """A reward model in one problem: its `decoder`, and what it reads before a solution, `prompt` and `known` [length];
    `frame`: what a step-wise model reads around each step."""

    decoder: Decoder
    prompt: Int[Array, " length"]
    known: Bool[Array, " length"]
    frame: Frame | None = None


class Solutions(NamedTuple):
    """Particles: solutions so far, with the caches that continue them. Every leaf has the particle axis first.

    `tokens`, `written` [n, slots]: what was written, and which slots hold a token; `log_prob`, `log_proposal` [n]: of
    the whole text under the model, and under the model at the sampling temperature; `log_odds` [n, max_steps]: the
    reward model's word after each step; `steps` [n]. `spent` is the cost of the whole system so far, the same number
    in every row: so it survives resampling, which drops the particles that it was spent on.
    """

    writing: Writing
    scored: Scored | None
    tokens: Int[Array, "n slots"]
    written: Bool[Array, "n slots"]
    log_prob: Float[Array, " n"]
    log_proposal: Float[Array, " n"]
    log_odds: Float[Array, "n max_steps"]
    steps: Int[Array, " n"]
    spent: Ledger


def solution_model(
    lm: Decoder,
    judge: Judge | None,
    target: Target | None,
    prompt: Int[Array, " length"],
    known: Bool[Array, " length"],
    proposal: Proposal,
    plan: Plan,
    delimiter: int | Int[Array, "states vocab"] | None,
    power: float | Float[Array, ""] | None = None,
) -> FeynmanKac:
    """The Feynman-Kac model of solutions to one prompt; run it for `plan.max_steps - 1` steps after the first.

    **Arguments:** `prompt`, `known` [length]: token ids padded on the right, and which are tokens; `judge`: the
    reward model; `proposal`: what tokens are drawn from; `delimiter`: what ends a step, see
    `ppl.lm.writing.write_step`. Without a `judge` and `target` all potentials are one: plain sampling.
    `power`: weigh for the model to this power instead of for the proposal, which then only proposes.
    """
    prefix, last = read_prompt(lm, prompt, known)
    judged = None if judge is None else read_prompt_scored(judge.decoder, judge.prompt, judge.known, judge.frame)
    judge_slots = plan.max_step_tokens if judge is None else step_slots(plan.max_step_tokens, judge.frame)

    def init(key: Key[Array, ""], n: int, u: Int[Array, ""]) -> tuple[Solutions, Float[Array, " n"]]:
        writing = start_writing(lm, prefix, last, n=n, slots=plan.slots)
        scored = None
        if judge is not None and judged is not None:
            scored = start_scoring(judge.decoder, *judged, n=n, slots=plan.max_steps * judge_slots)
        ids, zeros = jnp.zeros((n, plan.slots), jnp.int32), jnp.zeros(n)
        none = jnp.zeros(n, jnp.int32)
        length = lambda known: none + jnp.sum(known, dtype=jnp.int32)  # noqa: E731
        spent = Ledger(none, length(known), none, none if judge is None else length(judge.known), zeros)
        log_odds = jnp.zeros((n, plan.max_steps))
        empty = Solutions(writing, scored, ids, ids > 0, zeros, zeros, log_odds, none, spent)
        return advance(key, over_particles(empty, plan.mesh), u, first=True)

    def step(key: Key[Array, ""], state: Solutions, u: Int[Array, ""]) -> tuple[Solutions, Float[Array, " n"]]:
        return advance(key, state, u, first=False)

    def advance(key, state, u, *, first):
        offset = u * plan.max_step_tokens
        active = ~state.writing.finished
        writing, new = write_step(
            lm, key, prefix, state.writing, offset, proposal,
            max_tokens=plan.max_step_tokens, delimiter=delimiter, eos=plan.eos,
        )  # fmt: skip
        place = lambda all_, part: jax.lax.dynamic_update_slice_in_dim(all_, part, offset, axis=1)  # noqa: E731
        count = jnp.sum(new.written, dtype=jnp.int32)
        spent = state.spent + Ledger(generated_tokens=count)
        scored, log_odds, log_potential = state.scored, state.log_odds, jnp.zeros(active.shape)
        if power is not None:
            log_potential = power * new.log_prob - new.log_proposal  # zero where nothing was written
        if judge is not None and scored is not None and judged is not None:
            previous = None if first else scored.log_odds
            scored, read = score_step(
                judge.decoder, judged[0], scored, new.tokens, new.written, u * judge_slots, judge.frame
            )
            log_odds = jax.lax.dynamic_update_slice_in_dim(log_odds, scored.log_odds[:, None], u, axis=1)
            spent = spent + Ledger(0, 0, jnp.sum(active, dtype=jnp.int32), jnp.sum(read, dtype=jnp.int32), 0.0)
            if target is not None:
                # A finished text is absorbed: it keeps its weight while the others go on. Deciding it here, and not
                # by `ppl.smc.absorb`, saves a select over both caches.
                log_potential = log_potential + jnp.where(active, target(scored.log_odds, previous), 0.0)
        if plan.must_end:
            late = (u == plan.max_steps - 1) & ~writing.finished
            log_potential = jnp.where(late, -jnp.inf, log_potential)
        return Solutions(
            writing, scored, place(state.tokens, new.tokens), place(state.written, new.written),
            state.log_prob + new.log_prob, state.log_proposal + new.log_proposal, log_odds,
            state.steps + active, spent,
        ), log_potential  # fmt: skip

    return FeynmanKac(init, step)
