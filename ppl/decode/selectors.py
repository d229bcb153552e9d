"""Which of a problem's attempts to answer with, and how likely it is right: functions of Records, so they replay.

A selector takes the attempts of one problem and says which it picks and P(right) *as the method itself states it*;
whether those statements hold is measured (Brier score, reliability), not assumed. `single_answer` says that the
problem has one right answer, so that attempts with equal answers are right or wrong together; where many answers are
right (Countdown), shares of the vote say nothing about P(right) and the reward's own word is stated instead.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Float

from ppl.records import Records


class Choice(NamedTuple):
    """What a selector picked: the row of its attempt among the problem's records, the answer, and P(right) as stated.

    `row` is None, `answer` None and `probability` 0 when no attempt states an answer.
    """

    row: int | None
    answer: str | None
    probability: float


@runtime_checkable
class Selector(Protocol):
    """Picks among the attempts of one problem."""

    def __call__(self, records: Records, *, single_answer: bool) -> Choice:
        """The choice. **Raises:** `ValueError` if there is no attempt, or a column that it needs is missing."""
        ...


NO_ANSWER = Choice(None, None, 0.0)


def first(records: Records, *, single_answer: bool) -> Choice:
    """The first attempt, unselected (pass@1); it states the probability under the model of its own text.

    That is a lower bound of the model's probability of the answer, which other texts may give too.
    """
    frame, stated = _attempts(records, "log_prob"), text_probability(records)
    answer = frame.answer.iloc[0]
    return NO_ANSWER if pd.isna(answer) else Choice(0, str(answer), float(stated[0]))


def text_probability(records: Records) -> Float[np.ndarray, " attempts"]:
    """What `first` would state of each attempt: its text's probability under the model, 0 without an answer."""
    frame = records.frame
    return np.where(frame.answer.isna(), 0.0, np.exp(frame.log_prob.to_numpy()))


def majority(records: Records, *, single_answer: bool) -> Choice:
    """The commonest answer (self-consistency); it states its share of all attempts. Ties go to the earlier answer.

    **Source:** Wang et al. (2023), arXiv 2203.11171.
    """
    frame = _attempts(records)
    return _heaviest(frame, np.full(len(frame), 1 / len(frame)))


def best_of_n(records: Records, *, single_answer: bool) -> Choice:
    """The attempt with the highest reward; it states that reward."""
    frame = _attempts(records, "reward")
    return _highest(frame, frame.reward.to_numpy())


def weighted_best_of_n(records: Records, *, single_answer: bool) -> Choice:
    """The answer with the largest sum of rewards; it states its share of all rewards, or the mean reward of its
    attempts where a problem has many right answers.

    **Source:** Li et al. (2023), arXiv 2206.02336; Snell et al. (2024), arXiv 2408.03314.
    """
    frame = _attempts(records, "reward")
    reward = frame.reward.to_numpy()
    total = reward.sum()
    choice = _heaviest(frame, reward / total if total > 0 else reward)
    return choice if single_answer else _by_reward(frame, choice)


def weighted_particles(records: Records, *, single_answer: bool) -> Choice:
    """The answer with the largest posterior mass under the target, and that mass; where a problem has many right
    answers, the particle with the highest reward, and that reward, since mass there is split at random."""
    frame = _attempts(records, "reward", "log_weight")
    if single_answer:
        return heaviest_particles(records, single_answer=True)
    return _highest(_living(frame), frame.reward.to_numpy())


def heaviest_particles(records: Records, *, single_answer: bool) -> Choice:
    """The answer with the largest posterior mass, and that mass, which is that of being right only as far as the target
    says so: no reward model is asked."""
    frame = _living(_attempts(records, "log_weight"))
    log_weight = frame.log_weight.to_numpy()
    if not np.isfinite(log_weight).any():
        return NO_ANSWER
    weight = np.exp(log_weight - log_weight.max())
    return _heaviest(frame, weight / weight.sum())


def _living(frame: pd.DataFrame) -> pd.DataFrame:
    """Particles, of which a dead one answers nothing."""
    return frame.assign(answer=frame.answer.mask(np.isneginf(frame.log_weight.to_numpy())))


def _highest(frame: pd.DataFrame, reward: Float[np.ndarray, " attempts"]) -> Choice:
    """The attempt of highest reward among those that state an answer."""
    reward = np.where(frame.answer.isna(), -np.inf, reward)
    row = int(np.argmax(reward))
    return Choice(row, str(frame.answer.iloc[row]), float(reward[row])) if np.isfinite(reward[row]) else NO_ANSWER


def _heaviest(frame: pd.DataFrame, weight: Float[np.ndarray, " attempts"]) -> Choice:
    """The answer of largest total weight, its earliest attempt, and that total."""
    codes, answers = pd.factorize(frame.answer)  # attempts without an answer get code -1
    if not len(answers):
        return NO_ANSWER
    mass = np.bincount(codes[codes >= 0], weights=weight[codes >= 0], minlength=len(answers))
    best = int(np.argmax(mass))
    return Choice(int(np.argmax(codes == best)), str(answers[best]), float(min(mass[best], 1.0)))


def _by_reward(frame: pd.DataFrame, choice: Choice) -> Choice:
    if choice.row is None:
        return choice
    return choice._replace(probability=float(frame.reward[(frame.answer == choice.answer).fillna(False)].mean()))


def _attempts(records: Records, *needed: str) -> pd.DataFrame:
    frame = records.frame
    if not len(frame):
        raise ValueError("records: a selector needs at least one attempt, got none")
    for name in needed:
        missing = np.flatnonzero(frame[name].isna())
        if missing.size:
            raise ValueError(f"column {name!r}, row {missing[0]}: missing; this selector needs it on every attempt")
    return frame
