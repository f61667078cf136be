from numbers import Integral, Real

import numpy as np
import pytest

import skdinoad._compat.sklearn as door


def test_private_names_of_scikit_learn_still_exist():
    assert door.name_estimators([1, 1]) == [("int-1", 1), ("int-2", 1)]
    assert {door.HasMethods, door.Interval, door.Options, door.StrOptions}


def test_tasks_are_silent_where_nobody_listens():
    class Estimator:
        pass

    for task in door.Task(), door.Task.current(Estimator()):
        whole = door.whole_fit(Estimator(), None, None, 3)
        with whole, task, task.part("iteration") as part:
            pass
        assert not part.stop


@pytest.mark.parametrize("kind", [Integral, Real])
def test_numbers_are_those_that_can_be_calculated_with(kind):
    interval = door.Interval(kind, 1, None, closed="left")
    for good in (1, np.int64(3), np.int32(3)):
        assert interval.is_satisfied_by(good)
    for bad in (0, True, np.bool_(True), np.int8(3), np.float16(3), 10**30, np.nan):
        assert not interval.is_satisfied_by(bad)
