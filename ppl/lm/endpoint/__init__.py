"""Models behind the OpenAI-compatible protocol, as vLLM, SGLang and `ppl serve` speak it.

`Endpoint` writes continuations, with the methods of `LanguageModel`. It sends its requests through a
`Client`: bounded concurrency, timeouts, retries with backoff, and a journal of what was answered. The API key comes
from the environment and goes into one header, nowhere else.
"""

from ppl.lm.endpoint.client import EndpointError
from ppl.lm.endpoint.generation import Endpoint

__all__ = ["Endpoint", "EndpointError"]
