"""Runs of Markov chains that are stopped between two blocks, and go on."""

from unittest.mock import DEFAULT, patch

import numpy as np
import pytest

from ppl.inference import infer
from ppl.inference.chains import _advance


def goes_on_alike(model, *args, checkpoint, blocks=3, **options):
    """The posterior of a run stopped after some blocks and called again; asserted to be that of one never stopped."""
    whole = infer(model, *args, **options)
    stops = patch("ppl.inference.chains._advance", wraps=_advance, side_effect=[DEFAULT] * blocks + [KeyboardInterrupt])
    with stops, pytest.raises(KeyboardInterrupt):
        infer(model, *args, checkpoint=checkpoint, **options)
    resumed = infer(model, *args, checkpoint=checkpoint, **options)
    assert np.array_equal(whole.unconstrained, resumed.unconstrained)
    for name, value in whole.stats.items():
        assert np.array_equal(value, resumed.stats[name]), name
    return resumed
