"""Runs that are stopped while they save themselves, and go on."""

from unittest.mock import patch

import numpy as np
import pytest

from ppl.inference import infer
from ppl.inference.checkpoint import Checkpoint


def goes_on_alike(model, *args, checkpoint, saves=3, between=lambda: None, **options):
    """The posterior of a run stopped after some saves and called again; asserted to be that of one never stopped.

    `between` is called between the stop and the second call.
    """
    whole = infer(model, *args, **options)
    save, calls = Checkpoint.save, []

    def stops(*given, **more):
        calls.append(1)
        if len(calls) > saves:
            raise KeyboardInterrupt
        save(*given, **more)

    at_all_times = patch("ppl.inference.checkpoint._EVERY", 0)
    with at_all_times, patch.object(Checkpoint, "save", stops), pytest.raises(KeyboardInterrupt):
        infer(model, *args, checkpoint=checkpoint, **options)
    between()
    resumed = infer(model, *args, checkpoint=checkpoint, **options)
    assert np.array_equal(whole.unconstrained, resumed.unconstrained)
    assert whole.log_evidence == resumed.log_evidence
    for name, value in whole.stats.items():
        assert np.array_equal(value, resumed.stats[name], equal_nan=True), name
    return resumed
