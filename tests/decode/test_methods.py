"""Methods side by side on one task: what they share, what they do not, and the calls for one of them."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from ppl import decode
from ppl.decode import METHODS, Cut, Options, run_methods
from ppl.smc import Policy
from tests.decode.toys import Primes, models

OPTIONS = Options(6, policy=Policy("always"))
TASK, NUM = Primes(), 5
CUT = Cut(TASK.max_steps, TASK.max_step_tokens)


NAMES = [name for name in METHODS if name != "particle_filter_product"]  # two filters say what three would


@pytest.fixture(scope="module")
def everything():
    return run_methods(*models(), TASK, 0, NAMES, options=OPTIONS, num_problems=NUM)


def of(decoding, method):
    """A method's answers, without what no two runs share."""
    return decoding.answers[decoding.answers.method == method].drop(columns="seconds").reset_index(drop=True)


def test_every_method_answers_every_problem(everything):
    assert everything.answers.method.unique().tolist() == NAMES
    assert (everything.answers.groupby("method").problem.nunique() == NUM).all()
    assert set(everything.ess) == {name for name in NAMES if METHODS[name].source.weighs}
    for name in ("particle_filter", "power_sampling"):
        assert everything.answers[everything.answers.method == name].log_evidence.notna().all()
    assert everything.answers[everything.answers.method == "majority"].log_evidence.isna().all()


def test_power_sampling_proposes_at_the_power_that_it_targets(everything):
    """A proposal at temperature 1 / power: what is drawn is likelier under the proposal than under the model."""
    frame = everything.records.frame.query("method == 'power_sampling'")
    assert (frame.log_proposal >= frame.log_prob - 1e-4).mean() > 0.5
    assert frame.reward.isna().all()  # it reads none
    with pytest.raises(ValueError, match="power must be above 0 and finite, got 0"):
        run_methods(*models(), TASK, 0, ["power_sampling"], options=OPTIONS._replace(power=0.0), num_problems=1)


@pytest.mark.parametrize("method", ["best_of_n", "particle_filter_odds"])
def test_a_method_does_not_depend_on_which_others_run(everything, method):
    alone = run_methods(*models(), TASK, 0, [method], options=OPTIONS, num_problems=NUM)
    pd.testing.assert_frame_equal(of(alone, method), of(everything, method))


def test_the_order_of_methods_is_the_users(everything):
    names = ["particle_filter", "majority", "sample"]
    some = run_methods(*models(), TASK, 0, names, options=OPTIONS, num_problems=NUM)
    assert some.answers.method.unique().tolist() == names
    pd.testing.assert_frame_equal(of(some, "sample"), of(everything, "sample"), check_exact=False)


def test_the_number_of_problems_does_not_change_a_problem(everything):
    fewer = run_methods(models()[0], None, TASK, 0, ["majority"], options=OPTIONS, num_problems=3)
    texts = everything.records.frame.query("method == 'sample'").text
    assert fewer.records.frame.text.tolist() == texts.tolist()[: 3 * OPTIONS.budget]


def test_problems_do_not_share_their_randomness():
    alike = decode.sample(models()[0], [TASK.problems(1)[0].prompt] * NUM, 0, budget=6, cut=CUT)
    assert alike.records.frame.groupby("problem").text.apply(tuple).nunique() > 1  # with one key for all it would be 1


def test_selectors_of_one_source_spend_the_same_tokens(everything):
    summary = everything.summary().set_index("method")
    plain = ["majority", "best_of_n", "weighted_best_of_n"]
    assert summary.generated_tokens[plain].nunique() == 1
    # One sample of six costs a sixth; the prompt is read in any case.
    assert summary.generated_tokens["sample"] == pytest.approx(summary.generated_tokens[plain[0]] / 6)
    assert summary.prompt_tokens.nunique() == 1
    assert (summary.reward_calls[["sample", "majority"]] == 0).all()
    assert (summary.reward_calls[["best_of_n", "weighted_best_of_n"]] == 6).all()


def test_sample_is_judged_over_all_its_attempts(everything):
    frame = everything.records.frame.query("method == 'sample'")
    stated = np.where(frame.answer.isna(), 0, np.exp(frame.log_prob))
    right = frame.correct.to_numpy(dtype=float)
    by_problem = pd.DataFrame({"problem": frame.problem, "right": right, "brier": (stated - right) ** 2})
    expected = by_problem.groupby("problem", sort=False).mean()
    rows = of(everything, "sample").set_index("problem")
    assert 0 < expected.right.mean() < 1
    np.testing.assert_allclose(rows.correct, expected.right)
    np.testing.assert_allclose(rows.brier, expected.brier)


def test_answers_are_those_of_the_selectors(everything):
    for problem, records in everything.records.by_problem().items():
        frame = records.frame
        for method in ("majority", "best_of_n", "particle_filter"):
            pool = frame[frame.method == ("sample" if METHODS[method].target is None else method)]
            choice = METHODS[method].select(type(records)(pool), single_answer=False)
            row = of(everything, method).set_index("problem").loc[problem]
            assert row.probability == choice.probability
            assert row.correct == float(choice.row is not None and pool.correct.iloc[choice.row])
            assert row.brier == pytest.approx((row.probability - row.correct) ** 2)


def test_one_call_does_it(everything):
    lm, reward = models()
    filtered = decode.particle_filter(
        lm, reward, TASK, 0, budget=6, target="odds", policy=OPTIONS.policy, num_problems=NUM
    )
    pd.testing.assert_frame_equal(of(filtered, "particle_filter_odds"), of(everything, "particle_filter_odds"))
    chosen = decode.best_of_n(lm, reward, TASK, 0, budget=6, num_problems=NUM, weighted=True)
    pd.testing.assert_frame_equal(of(chosen, "weighted_best_of_n"), of(everything, "weighted_best_of_n"))
    for name in ("sample", "majority"):
        one = getattr(decode, name)(lm, TASK, 0, budget=6, num_problems=NUM)
        assert one.answers.answer.tolist() == of(everything, name).answer.tolist()


def test_listed_problems_are_verified_by_their_task(everything):
    listed = decode.majority(models()[0], TASK.problems(NUM), 0, budget=6, task=TASK)
    assert listed.answers.correct.tolist() == of(everything, "majority").correct.tolist()


def test_bare_prompts_are_answered_with_their_texts_and_not_verified():
    prompts = [problem.prompt for problem in TASK.problems(NUM)]
    bare = decode.majority(models()[0], prompts, 0, budget=6, cut=CUT)
    assert bare.answers.problem.tolist() == ["0", "1", "2", "3", "4"]
    assert bare.answers.correct.isna().all()
    for _, row in bare.answers.iterrows():
        assert row.answer in bare.records.frame[bare.records.frame.problem == row.problem].text.tolist()
        assert row.probability >= 1 / 6


@pytest.mark.parametrize(
    ("methods", "options", "message"),
    [
        (["best_of_m"], OPTIONS, "method 'best_of_m' is not known; known are sample, majority, best_of_n"),
        ([], OPTIONS, r"methods must be one or more names, each once, got \[\]"),
        (["sample", "sample"], OPTIONS, "each once, got"),
        (["sample"], Options(0), "budget must be at least 1 solution a problem, got 0"),
        (["best_of_n"], OPTIONS, "method 'best_of_n' needs a reward model, got None"),
    ],
)
def test_bad_arguments_are_named(methods, options, message):
    with pytest.raises(ValueError, match=message):
        run_methods(models()[0], None, TASK, 0, methods, options=options)


def test_an_unknown_target_is_named():
    with pytest.raises(ValueError, match="target 'best' is not known; known are final_reward, product, odds"):
        decode.particle_filter(*models(), TASK, 0, target="best")


def test_parts_are_imported_when_they_are_named():
    code = (
        "import sys, ppl; assert 'jax' not in sys.modules and 'decode' in dir(ppl)\n"
        "print(ppl.decode.particle_filter.__name__)\n"
        "try: ppl.decoder\nexcept AttributeError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    name, refusal = done.stdout.splitlines()
    assert name == "particle_filter"
    assert refusal.startswith("module 'ppl' has no attribute 'decoder'; its parts are arviz_adapter, ")
