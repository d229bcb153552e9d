"""Language models and reward models: flax decoders, KV cache, tokenizers and checkpoints in Hugging Face layout.

`load` and `load_reward` read a model folder (or a bundled model by name). `LanguageModel.log_probs` scores given
tokens; `RewardModel.score` gives P(right) of solution prefixes. The pure functions of `ppl.lm.writing` sample step by
step with a cache whose leaves have the particle axis first, so that resampling gathers them like any other state.
"""

from ppl.lm.bundled import bundled_models
from ppl.lm.model import LanguageModel, Model, RewardModel, load, load_reward

__all__ = ["LanguageModel", "Model", "RewardModel", "bundled_models", "load", "load_reward"]
