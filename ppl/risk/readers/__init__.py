"""Readers: tables and evaluation logs that people already have, to `Attempts`.

`read` tells the format by the file's content and returns a `Reading`: the attempts, and what was understood of it.

- tables (`table`, `columns`, `verdicts`, `tally`): CSV, JSONL, JSON lists and parquet, a row a problem or an attempt;
- `lm_eval`: sample logs of the lm-evaluation-harness; `inspect_ai`: `.eval` and `.json` logs; `human_eval`: result
  files of human-eval and EvalPlus; records of `ppl.records`;
- `stopping`: whether counts that are said to be fixed-n look as if sampling had stopped by outcomes.
"""

from ppl.risk.readers.columns import ROLES
from ppl.risk.readers.reading import FORMATS, Reading, read

__all__ = ["FORMATS", "ROLES", "Reading", "read"]
