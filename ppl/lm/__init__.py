"""Language models and reward models: flax decoders, KV cache, tokenizers and checkpoints in Hugging Face layout.

`load` and `load_reward` read a model folder (or a bundled model by name). `LanguageModel.log_probs` scores given
tokens; `RewardModel.score` gives P(right) of solution prefixes. The pure functions of `ppl.lm.writing` sample step by
step with a cache whose leaves have the particle axis first, so that resampling gathers them like any other state.
`Endpoint` and `RewardEndpoint` are models behind the OpenAI-compatible protocol.
"""

from ppl.lm.bundled import bundled_models
from ppl.lm.checkpoint import save_folder
from ppl.lm.completion import Completion
from ppl.lm.endpoint import Endpoint, EndpointError, RewardEndpoint
from ppl.lm.generation import Constraint
from ppl.lm.model import LanguageModel, Model, load
from ppl.lm.proposals import Proposal
from ppl.lm.reward import RewardModel, StepRewardModel, load_reward
from ppl.lm.scoring import Frame, Scored, read_prompt_scored, score_step, start_scoring, step_slots
from ppl.lm.text import Text
from ppl.lm.verifier import GenerativeVerifier
from ppl.lm.writing import Step, Writing, read_prompt, start_writing, write_step

__all__ = [
    "Completion",
    "Constraint",
    "Endpoint",
    "EndpointError",
    "Frame",
    "GenerativeVerifier",
    "LanguageModel",
    "Model",
    "Proposal",
    "RewardEndpoint",
    "RewardModel",
    "Scored",
    "Step",
    "StepRewardModel",
    "Text",
    "Writing",
    "bundled_models",
    "load",
    "load_reward",
    "read_prompt",
    "read_prompt_scored",
    "save_folder",
    "score_step",
    "start_scoring",
    "start_writing",
    "step_slots",
    "write_step",
]
