"""Logs of inspect_ai: `.eval` archives and `.json` files; samples are problems, epochs are attempts."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ppl.risk.readers import tally
from ppl.risk.readers.content import Archive
from ppl.risk.readers.table import Table, listed
from ppl.risk.readers.tally import Tally
from ppl.risk.readers.verdicts import Judging, Meaning

# inspect_ai's own letters: correct, incorrect, partial credit, no answer (which it counts as 0).
_LETTERS: Mapping[str, Meaning] = {"C": "correct", "I": "incorrect", "N": "incorrect", "P": "partial"}
_SUMMARIES = "summaries.json"
_SAMPLE = re.compile(r"samples/(.+_epoch_\d+\.json|.+_epoch_\d+/sample\.json)")  # a long sample is a folder


class _Sample(NamedTuple):
    """One sample in one epoch."""

    id: Any
    epoch: Any
    scores: Mapping[str, Any]
    trouble: str  # why it may have no score


def is_log(value: Any) -> bool:
    """Whether a JSON value is a log, with or without its samples."""
    return isinstance(value, dict) and isinstance(value.get("eval"), dict) and {"status", "plan"} & set(value) != set()


def read_json(source: str, log: Mapping[str, Any], metric: str | None, judging: Judging) -> Tally:
    """Counts of a `.json` log. **Raises:** `ValueError`, as `read_archive`."""
    samples = log.get("samples")
    if not isinstance(samples, list) or not samples:
        raise ValueError(f"{source}: the log holds no samples (a run with --no-log-samples has none)")
    found = [_sample(f"{source}, sample {i}", sample) for i, sample in enumerate(samples, start=1)]
    return _tally(source, found, log, metric, judging)


def read_archive(archive: Archive, metric: str | None, judging: Judging) -> Tally:
    """Counts of an `.eval` archive.

    Scores are read from the summaries of samples, which are small, if there is one of each sample and none was marked
    as invalid; else from the samples, as in the log of a run that was interrupted.

    **Arguments:** `metric`: the scorer, if the log has several, or `scorer/key` if its value has several keys.

    **Raises:** `ValueError` naming file, sample, scorer and value: no samples, no scorer or several, a sample and epoch
    twice, a value that is neither right nor wrong.
    """
    source = archive.source
    header = archive.json("header.json") if "header.json" in archive.names else {}
    if not isinstance(header, dict):
        raise ValueError(f"{source}, header.json: a JSON object is wanted, got {header!r:.60}")
    names = [name for name in archive.names if _SAMPLE.fullmatch(name)]
    if not names:
        raise ValueError(
            f"{source}: no samples/*.json among {listed(archive.names)}; an inspect_ai log has one a sample"
        )
    found = []
    if _SUMMARIES in archive.names and not header.get("invalidated"):
        summaries = archive.json(_SUMMARIES)
        if isinstance(summaries, list) and len(summaries) == len(names):
            found = [_sample(f"{source}, {_SUMMARIES}, sample {i}", one) for i, one in enumerate(summaries, start=1)]
    found = found or [_sample(f"{source}, {name}", archive.json(name)) for name in names]
    return _tally(source, found, header, metric, judging)


def _sample(place: str, sample: Any) -> _Sample:
    if not isinstance(sample, dict) or "id" not in sample or "epoch" not in sample:
        raise ValueError(f"{place}: an object with id, epoch and scores is wanted, got {sample!r:.60}")
    scores = sample.get("scores")
    if scores is None:
        scores = {"score": sample["score"]} if sample.get("score") else {}  # the form of the first logs, of 2024
    if not isinstance(scores, dict):
        raise ValueError(f"{place}: scores by scorer are wanted, got {scores!r:.60}")
    invalid = sample.get("invalidation") is not None
    trouble = "marked as invalid" if invalid else "ended with an error" if sample.get("error") else "not scored"
    return _Sample(sample["id"], sample["epoch"], {} if invalid else scores, trouble)


def _tally(
    source: str, samples: Sequence[_Sample], header: Mapping[str, Any], metric: str | None, judging: Judging
) -> Tally:
    scorer, key = _scorer(source, samples, metric)
    values = [_value(sample, scorer, key) for sample in samples]
    numbers = [
        f"{i} (id {sample.id}, epoch {sample.epoch}{f', {sample.trouble}' if value is None else ''})"
        for i, (sample, value) in enumerate(zip(samples, values, strict=True), start=1)
    ]
    ids, epochs = [sample.id for sample in samples], [sample.epoch for sample in samples]
    table = Table(source, {"id": ids, "epoch": epochs, scorer: values}, "sample", numbers)
    chosen = {"problem": ("id",), "attempt": ("epoch",), "correct": (scorer,)}
    counted = tally.of_attempts(table, chosen, judging, _LETTERS)
    return dataclasses.replace(counted, notes=(*counted.notes, *_notes(header)))


def _scorer(source: str, samples: Sequence[_Sample], metric: str | None) -> tuple[str, str | None]:
    """The scorer, and the key of its values if these are objects."""
    names = list(dict.fromkeys(name for sample in samples for name in sample.scores))
    keys = {
        name: list(dict.fromkeys(key for sample in samples for key in _keys(sample.scores.get(name)))) for name in names
    }
    known = {(f"{name}/{key}" if key else name): (name, key) for name in names for key in keys[name] or [None]}
    if metric is not None and metric in known:
        return known[metric]
    if metric is not None:
        raise ValueError(f"{source}: metric: no scorer {metric!r}; the log has {listed(known)}")
    if not known:
        raise ValueError(f"{source}: no sample has a score")
    if len(known) > 1:
        raise ValueError(f"{source}: several scores, {listed(known)}; choose one, as in metric={next(iter(known))!r}")
    return next(iter(known.values()))


def _keys(score: Any) -> Iterator[str]:
    value = score.get("value") if isinstance(score, dict) else None
    return iter(value if isinstance(value, dict) else ())


def _value(sample: _Sample, scorer: str, key: str | None) -> Any:
    score = sample.scores.get(scorer)
    value = score.get("value") if isinstance(score, dict) else None
    return value.get(key) if key is not None and isinstance(value, dict) else value


def _notes(header: Mapping[str, Any]) -> Iterator[str]:
    status = header.get("status", "unknown: the log has no header")
    if status != "success":
        yield f"the log's status is {status}: samples may be missing"
    results = header.get("results")
    if isinstance(results, dict) and results.get("early_stopping"):
        yield "the log says that sampling stopped early: if outcomes decided when, the rule is not fixed"
