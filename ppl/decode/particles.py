"""Solutions written step by step as a Feynman-Kac model: the language model moves, a reward model weighs.

One step of the model is one reasoning step of all particles: some tokens from the language model's cache, then one
reading of those tokens by the reward model's cache. Both caches are part of the state, so the engine's one gather
moves them with their particle.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from ppl.cost import Ledger
from ppl.decode.targets import Target
from ppl.lm.decoder import Decoder
from ppl.lm.writing import Scored, Writing, read_prompt, read_prompt_scored, score_step, write_step
from ppl.smc import FeynmanKac


class Plan(NamedTuple):
    """How solutions are cut into steps: at most `max_steps` steps of at most `max_step_tokens` tokens, each ended by
    token `delimiter` (None: by length alone) or by the end of the text, token `eos`."""

    max_steps: int
    max_step_tokens: int
    delimiter: int | None
    eos: int

    @property
    def slots(self) -> int:
        return self.max_steps * self.max_step_tokens


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
    reward: Decoder | None,
    target: Target | None,
    prompt: Int[Array, " length"],
    known: Bool[Array, " length"],
    temperature: float | Float[Array, ""],
    plan: Plan,
) -> FeynmanKac:
    """The Feynman-Kac model of solutions to one prompt; run it for `plan.max_steps - 1` steps after the first.

    **Arguments:** `prompt`, `known` [length]: token ids padded on the right, and which are tokens; the reward model
    reads the same ids. Without a `reward` and `target` all potentials are one: plain sampling.
    """

    def init(key: Key[Array, ""], n: int, u: Int[Array, ""]) -> tuple[Solutions, Float[Array, " n"]]:
        writing = read_prompt(lm, prompt, known, n=n, slots=plan.slots)
        scored = None if reward is None else read_prompt_scored(reward, prompt, known, n=n, slots=plan.slots)
        ids, zeros = jnp.zeros((n, plan.slots), jnp.int32), jnp.zeros(n)
        length = jnp.full(n, jnp.sum(known, dtype=jnp.int32))
        none = jnp.zeros(n, jnp.int32)
        spent = Ledger(none, length, none, none if reward is None else length, zeros)
        log_odds = jnp.zeros((n, plan.max_steps))
        empty = Solutions(writing, scored, ids, ids > 0, zeros, zeros, log_odds, none, spent)
        return advance(key, empty, u, first=True)

    def step(key: Key[Array, ""], state: Solutions, u: Int[Array, ""]) -> tuple[Solutions, Float[Array, " n"]]:
        return advance(key, state, u, first=False)

    def advance(key, state, u, *, first):
        offset = u * plan.max_step_tokens
        slot = prompt.shape[0] + offset
        active = ~state.writing.finished
        writing, new = write_step(
            lm, key, state.writing, slot, temperature,
            max_tokens=plan.max_step_tokens, delimiter=plan.delimiter, eos=plan.eos,
        )  # fmt: skip
        place = lambda all_, part: jax.lax.dynamic_update_slice_in_dim(all_, part, offset, axis=1)  # noqa: E731
        count = jnp.sum(new.written, dtype=jnp.int32)
        spent = state.spent + Ledger(generated_tokens=count)
        scored, log_odds, log_potential = state.scored, state.log_odds, jnp.zeros(active.shape)
        if reward is not None and scored is not None:
            previous = None if first else scored.log_odds
            scored = score_step(reward, scored, new.tokens, new.written, slot)
            log_odds = jax.lax.dynamic_update_slice_in_dim(log_odds, scored.log_odds[:, None], u, axis=1)
            spent = spent + Ledger(0, 0, jnp.sum(active, dtype=jnp.int32), count, 0.0)
            if target is not None:
                # A finished text is absorbed: it keeps its weight while the others go on. Deciding it here, and not
                # by `ppl.smc.absorb`, saves a select over both caches.
                log_potential = jnp.where(active, target(scored.log_odds, previous), 0.0)
        return Solutions(
            writing, scored, place(state.tokens, new.tokens), place(state.written, new.written),
            state.log_prob + new.log_prob, state.log_proposal + new.log_proposal, log_odds,
            state.steps + active, spent,
        ), log_potential  # fmt: skip

    return FeynmanKac(init, step)
