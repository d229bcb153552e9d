"""Models behind the OpenAI-compatible protocol, as vLLM, SGLang and `ppl serve` speak it.

`Endpoint` writes continuations and `RewardEndpoint` scores prefixes, with the methods of `LanguageModel` and
`RewardModel`. Both send their requests through a `Client`: bounded concurrency, timeouts, retries with backoff, and a
journal of what was answered. The API key comes from the environment and goes into one header, nowhere else.
"""

from ppl.lm.endpoint.client import EndpointError
from ppl.lm.endpoint.generation import Endpoint
from ppl.lm.endpoint.reward import RewardEndpoint

__all__ = ["Endpoint", "EndpointError", "RewardEndpoint"]
