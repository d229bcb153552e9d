"""A completion: one continuation of a prompt, as local models and endpoints both return it."""

from collections.abc import Sequence
from typing import NamedTuple

from ppl.records import Records


class Completion(NamedTuple):
    """`text` without its stop string; `tokens`: ids, the one that ended it included (empty where a server names none);
    `log_probs`: natural log of each token's probability under the model, `log_proposals`: under what it was drawn
    from (None where unknown); `finish`: `"stop"` if the text ended by itself or at a stop string, `"length"` at the
    limit; `passes`: passes of the decoder that wrote it, one a token without speculation (None where unknown)."""

    text: str
    tokens: list[int]
    log_probs: list[float] | None
    log_proposals: list[float] | None
    finish: str
    passes: int | None = None


def completion_records(
    prompts: Sequence[str], found: Sequence[Sequence[Completion]], prompt_tokens: Sequence[int], method: str = "sample"
) -> Records:
    """Completions as a table of attempts: problems numbered by place, samples by order."""
    return Records.from_rows(
        {
            "problem": str(i), "sample": j, "method": method, "prompt": prompts[i], "text": one.text,
            "answer": one.text, "token_ids": one.tokens,
            "log_prob": None if one.log_probs is None else float(sum(one.log_probs)),
            "log_proposal": None if one.log_proposals is None else float(sum(one.log_proposals)),
            "finish": one.finish, "prompt_tokens": prompt_tokens[i], "generated_tokens": len(one.tokens),
        }
        for i, completions in enumerate(found)
        for j, one in enumerate(completions)
    )  # fmt: skip
