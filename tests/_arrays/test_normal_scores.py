import numpy as np
import pytest
from scipy import stats

from skdinoad._arrays.normal_scores import NormalScores, rate_interval


def test_threshold_of_known_scores():
    """The median is 1 and the median absolute deviation log 2, computed by hand."""
    scores = np.exp(np.log(2) * np.array([-2.0, -1, 0, 1, 2]))
    spread = np.sqrt((4 * (np.log(2) * 1.482602) ** 2 + 0.2**2) / 5)
    spread *= np.sqrt(1 + 4 / 5)
    expected = np.exp(spread * 2.131847)  # 95 % of Student's t, 4 degrees of freedom
    assert NormalScores(scores).threshold(0.05) == pytest.approx(expected, rel=1e-5)


def test_a_half_of_good_images_exceeds_the_median():
    assert NormalScores([1.0, 2, 3]).threshold(0.5) == pytest.approx(2)


@pytest.mark.parametrize("n", [3, 5, 10, 24, 300, 3000])
def test_one_odd_image_hardly_moves_the_threshold(n, rng):
    scores = rng.lognormal(sigma=0.2, size=n)
    before = NormalScores(scores).threshold(0.05)
    moved = [
        NormalScores(np.append(scores[1:], odd)).threshold(0.05)
        for odd in (0, 3, 1e3, 1e9)
    ]
    assert max(moved) < before * (2.5 if n < 5 else 1 + 4 / n)
    assert min(moved) > before / (2.5 if n < 5 else 1 + 4 / n)


def test_a_fifth_of_odd_images_moves_it_by_a_tenth(rng):
    good = rng.lognormal(sigma=0.2, size=200)
    before = NormalScores(good).threshold(0.05)
    known = NormalScores(np.append(good, np.full(50, 10.0)))
    assert known.suspects[200:].all()
    assert known.suspects[:200].mean() < 0.02
    assert known.threshold(0.05) == pytest.approx(before, rel=0.1)


@pytest.mark.parametrize("n", [3, 5, 10, 24, 200])
@pytest.mark.parametrize("sigma", [0.1, 0.2, 0.3])
def test_false_alarms_of_log_normal_scores_stay_near_the_rate(n, sigma):
    """The estimate assumes heavier tails than these, so the rate may be lower."""
    rng = np.random.default_rng(0)
    draws = [rng.lognormal(sigma=sigma, size=n) for _ in range(300)]
    limits = np.array([NormalScores(draw).threshold(0.05) for draw in draws])
    realised = stats.lognorm.sf(limits, sigma).mean()
    assert realised <= (0.09 if n < 10 else 0.055)


def test_units_do_not_matter(rng):
    scores = rng.lognormal(size=30)
    one, other = NormalScores(scores), NormalScores(1000 * scores)
    assert other.threshold(0.05) == pytest.approx(1000 * one.threshold(0.05))
    np.testing.assert_array_equal(one.suspects, other.suspects)


def test_scores_of_any_sign_have_a_threshold(rng):
    scores = rng.normal(-3, 1, 50)
    limit = NormalScores(scores).threshold(0.05)
    assert np.median(scores) < limit < 2
    assert NormalScores([0.0, 0, 0]).threshold(0.05) == 0
    assert np.isfinite(NormalScores([0.0, 0, 1, 1, 1]).threshold(0.05))
    assert NormalScores([1.0]).threshold(0.05) > 1


def test_fewer_false_alarms_need_a_higher_threshold(rng):
    known = NormalScores(rng.lognormal(size=20))
    limits = [known.threshold(rate) for rate in (0.5, 0.2, 0.05, 0.01, 1e-4)]
    assert (np.diff(limits) > 0).all()


def test_interval_is_clopper_and_pearsons():
    low, high = rate_interval(2, 40)
    assert low == pytest.approx(stats.beta.ppf(0.05, 2, 39))
    assert high == pytest.approx(stats.beta.ppf(0.95, 3, 38))
    assert rate_interval(0, 10)[0] == 0
    assert rate_interval(10, 10)[1] == 1
