"""`ppl serve`: a loaded model behind the OpenAI-compatible protocol, so that what talks to vLLM talks to it.

`Server` answers `/v1/models`, `/v1/completions`, `/v1/chat/completions` (if the model has a chat template) and vLLM's
`/pooling` (for a reward model). It is the standard library's threading HTTP server: its threads only read and write
JSON, and one more thread runs the model on what arrived together, so that no other server would be faster.
"""

from ppl.lm.serve.models import Judge, Writer
from ppl.lm.serve.server import Server

__all__ = ["Judge", "Server", "Writer"]
