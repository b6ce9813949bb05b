"""When each delivered frame is, to the fraction."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.interpolate.plan import Mode, Sample, is_identity, plan
from core.motion import frame_count

RATES = st.sampled_from([8, 12, 16, 24, 25, 30, 60, Fraction(24000, 1001)])
DURATIONS = st.decimals("0.2", "8", places=3).map(float)


@given(st.integers(1, 300), RATES, DURATIONS, RATES, st.sampled_from(Mode))
def test_every_plan_has_the_exact_count_and_stays_inside(
    base: int, base_rate: Fraction, duration: float, fps: Fraction, mode: Mode
) -> None:
    samples = plan(base, base_rate, duration, fps, mode)
    assert len(samples) == frame_count(duration, fps)
    assert all(0 <= sample.t < 1 and 0 <= sample.source < base for sample in samples)
    if mode is not Mode.loop:  # between the last frame and none there is nothing
        assert all(sample.t == 0 for sample in samples if sample.source == base - 1)
    places = [sample.source + sample.t for sample in samples]
    assert all(a <= b for a, b in pairwise(places))


@given(st.integers(1, 300), RATES, DURATIONS, RATES)
def test_time_true_shows_every_frame_when_it_was_meant(
    base: int, base_rate: Fraction, duration: float, fps: Fraction
) -> None:
    for number, sample in enumerate(plan(base, base_rate, duration, fps)):
        meant = Fraction(number) / Fraction(fps) * Fraction(base_rate)
        assert sample.source + sample.t == min(meant, base - 1)


@pytest.mark.parametrize(
    ("base", "rate", "duration", "fps", "last", "made", "distinct"),
    [
        (65, 16, 4, 30, Fraction(63467, 1000), 112, 14),
        (64, 16, 4, 30, Fraction(63), 111, 14),
        (81, 16, 5, 24, Fraction(79333, 1000), 80, 2),
        (81, 16, 5, 30, Fraction(79467, 1000), 140, 14),
        (97, 24, 4, 30, Fraction(952, 10), 96, 4),
        (101, 25, 4, 30, Fraction(99167, 1000), 100, 5),
        (121, 24, 5, 60, Fraction(1196, 10), 240, 4),
    ],
)
def test_what_the_usual_models_give(
    base: int, rate: int, duration: float, fps: int, last: Fraction, made: int, distinct: int
) -> None:
    samples = plan(base, rate, duration, fps)
    assert float(samples[-1].source + samples[-1].t) == pytest.approx(float(last), abs=5e-4)
    new = [sample.t for sample in samples if sample.t]
    assert (len(new), len(set(new))) == (made, distinct)


def test_fit_begins_with_the_first_and_ends_with_the_last() -> None:
    samples = plan(65, 16, 4.0, 30, Mode.fit)
    assert (samples[0], samples[-1]) == (Sample(0, Fraction(0)), Sample(64, Fraction(0)))


def test_a_loop_goes_on_where_it_began() -> None:
    samples = plan(16, 16, 1.0, 30, Mode.loop)
    assert samples[-1].source == 15
    assert samples[-1].source + samples[-1].t + Fraction(16, 30) == 16


def test_equal_rates_leave_every_frame_alone_and_others_do_not() -> None:
    assert is_identity(plan(180, 30, 6.0, 30), 180)
    assert not is_identity(plan(181, 30, 6.0, 30), 181)  # one frame is left out
    assert not is_identity(plan(90, 15, 6.0, 30), 90)


@pytest.mark.parametrize(("base", "rate", "fps"), [(0, 16, 30), (16, 0, 30), (16, 16, 0)])
def test_nothing_cannot_be_sampled(base: int, rate: int, fps: int) -> None:
    with pytest.raises(ValueError, match="cannot sample"):
        plan(base, rate, 1.0, fps)
