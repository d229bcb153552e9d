import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ppl.lm.ngrams import CELLS, CONTEXT, empty_table, guess, learn

WHOLE = 0.0, 1.0


def context(*tokens):
    return [-1] * (CONTEXT - len(tokens)) + list(tokens)


def taught(*entries, table=None):
    """A table that has seen (context, token, lower, upper), all at once."""
    contexts, tokens, lower, upper = zip(*entries, strict=True)
    known = jnp.ones(len(entries), bool)
    arrays = jnp.asarray(contexts, jnp.int32), jnp.asarray(tokens, jnp.int32), jnp.asarray(lower), jnp.asarray(upper)
    return learn(empty_table(1 << 10) if table is None else table, *arrays, known)


def asked(table, contexts, uniforms):
    return guess(table, jnp.asarray(contexts, jnp.int32), jnp.asarray(uniforms, jnp.float32)).tolist()


def test_an_empty_table_repeats_the_last_token():
    assert asked(empty_table(1 << 10), [context(3, 0), context(5)], [0.1, 0.9]) == [0, 5]


def test_a_law_is_kept_as_its_quantiles():
    """A law of three tokens, seen whole: every uniform finds its token but in cells with a boundary inside."""
    ends = np.array([0.0, 0.2, 0.7, 1.0])
    table = taught(*[(context(1, 2), token, ends[i], ends[i + 1]) for i, token in enumerate((9, 4, 6))])
    uniforms = (np.arange(1000) + 0.5) / 1000
    right = np.array([9, 4, 6])[np.searchsorted(ends, uniforms) - 1]
    wrong = np.array(asked(table, [context(1, 2)] * 1000, uniforms)) != right
    assert wrong.mean() <= len(ends[1:-1]) / CELLS / 2
    assert set((uniforms[wrong] * CELLS).astype(int)) <= set((ends[1:-1] * CELLS).astype(int))


def test_the_longest_known_context_is_believed_and_the_newest_entry():
    table = taught((context(1, 2, 3, 4), 7, *WHOLE))
    table = taught((context(8, 2, 3, 4), 9, *WHOLE), table=table)
    known = [context(1, 2, 3, 4), context(8, 2, 3, 4), context(5, 2, 3, 4), context(5, 6, 7, 4), context(6)]
    assert asked(table, known, [0.5] * 5) == [7, 9, 9, 9, 6]
    table = taught((context(1, 2, 3, 4), 3, *WHOLE), table=table)
    assert asked(table, known[:3], [0.5] * 3) == [3, 9, 3]


def test_a_cell_that_was_not_seen_takes_the_latest_follower():
    table = taught((context(1, 2), 7, 0.0, 0.5), (context(2), 9, 0.9, 0.91))
    assert asked(table, [context(1, 2)] * 2, [0.1, 0.9]) == [7, 7]


def test_what_is_not_known_is_not_learned():
    one = jnp.asarray([context(1, 2)], jnp.int32), jnp.asarray([7]), jnp.zeros(1), jnp.ones(1)
    table = learn(empty_table(1 << 10), *one, jnp.zeros(1, bool))
    assert not table.checks.any()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(0, 2**31))
def test_guesses_are_tokens_that_were_seen(text, seed):
    text = [-1] * CONTEXT + text
    entries = [(text[i : i + CONTEXT], text[i + CONTEXT], *WHOLE) for i in range(len(text) - CONTEXT)]
    # Padded to one length, so that one program serves.
    known = jnp.arange(40) < len(entries)
    contexts, tokens = np.full((40, CONTEXT), -1, np.int32), np.zeros(40, np.int32)
    contexts[: len(entries)], tokens[: len(entries)] = [e[0] for e in entries], [e[1] for e in entries]
    table = LEARN(empty_table(1 << 10), jnp.asarray(contexts), jnp.asarray(tokens), jnp.zeros(40), jnp.ones(40), known)
    found = GUESS(table, jnp.asarray(contexts), jax.random.uniform(jax.random.key(seed), (40,)))
    assert set(found.tolist()[: len(entries)]) <= set(text[CONTEXT:])


LEARN, GUESS = jax.jit(learn), jax.jit(guess)
