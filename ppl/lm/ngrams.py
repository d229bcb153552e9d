"""What short contexts were followed by, as quantiles: a table that guesses which token a given uniform will draw.

A token is drawn as the inverse distribution function of its law at a uniform. So a law is kept as that function, on a
grid of cells of (0, 1): a token that was drawn fills all cells between the uniforms that would have drawn it. Where the
law is the same again, the cell of the next uniform holds the very token that will be drawn, and where it is similar,
most often so. Entries lie in one flat hash table, addressed by context and cell, which a jitted loop reads by gathers
and extends by scatters. Nothing here has to be right: what collides or is out of date is a bad guess.

**Source:** Song et al. (2025), "Accelerated test-time scaling with model-free speculative sampling" (STAND),
arXiv 2506.04708: n-gram tables of laws, and drafts drawn from them. They keep the most probable tokens of each law;
drawn tokens with their cells made as good guesses here (within 1% of kept tokens, from laws at all cells) and need no
second pass over the vocabulary. Nor do contexts of one prompt have a table of their own: one for all guessed better.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

CONTEXT = 4  # tokens of the longest context; a shorter one is asked where a longer one is unknown
CELLS = 8  # of the grid of uniforms


class NGrams(NamedTuple):
    """`checks`, `tokens` [buckets]: hash of the context and cell that was stored last (0: none), and the token."""

    checks: UInt32[Array, " buckets"]
    tokens: Int[Array, " buckets"]


def empty_table(buckets: int = 1 << 20) -> NGrams:
    """A table of so many buckets, a power of two: 8 MiB unless told otherwise."""
    return NGrams(jnp.zeros(buckets, jnp.uint32), jnp.zeros(buckets, jnp.int32))


def learn(
    table: NGrams,
    contexts: Int[Array, "n context"],
    tokens: Int[Array, " n"],
    lower: Float[Array, " n"],
    upper: Float[Array, " n"],
    known: Bool[Array, " n"],
) -> NGrams:
    """Add that `contexts` went on with `tokens` for all uniforms between `lower` and `upper`, where `known`.

    **Arguments:** `contexts` [n, CONTEXT]: the tokens before, the latest last, -1 where there was none.
    """
    cells = jnp.arange(CELLS + 1)
    middle = (cells + 0.5) / CELLS
    # The last "cell" is the latest follower, whatever the uniform.
    inside = ((lower[:, None] <= middle) & (middle < upper[:, None])) | (cells == CELLS)
    buckets = table.checks.shape[0]
    for hashed in _hashes(contexts):
        keys = _cell(hashed[:, None], cells.astype(jnp.uint32))
        place = jnp.where(inside & known[:, None], _place(keys, buckets), buckets)
        follower = jnp.broadcast_to(tokens[:, None], place.shape)
        table = NGrams(table.checks.at[place].set(keys, mode="drop"), table.tokens.at[place].set(follower, mode="drop"))
    return table


def guess(table: NGrams, contexts: Int[Array, "n context"], uniform: Float[Array, " n"]) -> Int[Array, " n"]:
    """The token that each uniform will most likely draw after its context; the last token again if nothing is known."""
    cell = jnp.minimum((uniform * CELLS).astype(jnp.uint32), CELLS - 1)
    token = contexts[:, -1]
    hashes = _hashes(contexts)
    # The best guess is made last: the quantile after the longest context.
    for at in (jnp.uint32(CELLS), cell):
        for hashed in reversed(hashes):
            keys = _cell(hashed, at)
            place = _place(keys, table.checks.shape[0])
            token = jnp.where(table.checks[place] == keys, table.tokens[place], token)
    return token


def _hashes(contexts: Int[Array, "n context"]) -> list[UInt32[Array, " n"]]:
    """A hash of all tokens of each context, of all but the first, and so on to the last token alone."""
    hashed, found = jnp.full(contexts.shape[0], 0x811C9DC5, jnp.uint32), []
    for i in reversed(range(contexts.shape[1])):
        hashed = _mixed(hashed ^ contexts[:, i].astype(jnp.uint32))
        found.append(hashed)
    return found[::-1]


def _cell(hashed: UInt32[Array, "..."], cell: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    return _mixed(hashed + (cell + 1) * jnp.uint32(0x9E3779B1)) | 1  # 0 is an empty bucket


def _place(keys: UInt32[Array, "*n"], buckets: int) -> Int[Array, "*n"]:
    return ((keys >> 1) & jnp.uint32(buckets - 1)).astype(jnp.int32)


def _mixed(x: UInt32[Array, "*n"]) -> UInt32[Array, "*n"]:
    """Each bit of the result depends on all bits of `x` (the finaliser of MurmurHash3)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
