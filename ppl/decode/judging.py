"""A local reward model with the methods of a `RewardEndpoint`: it reads texts that a server's language model writes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ppl.lm import RewardModel, StepRewardModel
from ppl.lm.endpoint.reward import Judged
from ppl.lm.padding import filled


class LocalJudge(NamedTuple):
    """Reads whole texts anew at each step: who does not write a text has no cache of it."""

    model: RewardModel | StepRewardModel

    @property
    def end_of_text(self) -> str:
        """What the model knows a finished solution by."""
        ends = self.model.config.eos_token_ids if isinstance(self.model, RewardModel) else ()
        return "".join(self.model.tokenizer.id_to_token(end) or "" for end in ends[:1])

    def judge(self, prompts: Sequence[str], prefixes: Sequence[str]) -> Judged:
        """P(right) of each prefix, and the tokens read; equal texts are read once.

        A text without a step scores 1/2 with a model that scores steps alone, as `ppl.lm.scoring` has it.

        **Raises:** `ValueError` as the model's `score`.
        """
        asked = list(zip(prompts, prefixes, strict=True))
        found = dict.fromkeys(asked, 0.5)
        pairs = list(found)
        if isinstance(self.model, StepRewardModel):
            blank = self.model.step_delimiter
            pairs = [pair for pair in pairs if pair[1].replace(blank, "").strip()]
        if pairs:
            scores = self.model.score(*map(list, zip(*filled(pairs), strict=True)))
            found |= dict(zip(pairs, scores[: len(pairs)].tolist(), strict=True))
        tokens = sum(len(self.model.encode(prompt + prefix)) for prompt, prefix in pairs)
        return Judged(np.array([found[pair] for pair in asked]), tokens)
