"""Which failures of a request are worth another attempt, and how long to wait before it."""

import email.utils
import random
import time
from collections.abc import Mapping

_LONGEST = 60.0  # seconds: a server that says nothing is asked again at least once a minute
_SAID = 300  # characters of a server's words that an error repeats


class Failed(Exception):
    """An attempt that failed; `repeat`: that may pass; `wait`: seconds that the server asked for."""

    def __init__(self, why: str, *, repeat: bool, status: int | None = None, wait: float | None = None):
        super().__init__(why)
        self.repeat, self.status, self.wait = repeat, status, wait


def worth_repeating(status: int) -> bool:
    """Too many requests, a request timeout, or the server's own failure; any other refusal will be one again."""
    return status in (408, 429) or status >= 500


def delay(attempt: int, backoff: float, asked: float | None) -> float:
    """Seconds before the attempt after number `attempt` (from 0): doubled each time, with jitter.

    The jitter (a factor between 1/2 and 1) keeps many clients from coming back at once; what the server `asked` for is
    the least that is waited.
    """
    own = min(backoff * 2.0 ** min(attempt, 30), _LONGEST) * random.uniform(0.5, 1.0)
    return own if asked is None else max(asked, own)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a `Retry-After` header asks for: a number, or a date; None without a readable one."""
    said = headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(said))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def words(text: str, secret: str | None) -> str:
    """What a server said, on one line, not too long, and without the API key, should it repeat that."""
    if secret:
        text = text.replace(secret, "[API key]")
    line = " ".join(text.split())
    return line if len(line) <= _SAID else line[:_SAID] + "..."
