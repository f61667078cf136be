import skdinoad._compat.sklearn as door


def test_private_names_of_scikit_learn_still_exist():
    assert door.name_estimators([1, 1]) == [("int-1", 1), ("int-2", 1)]
    assert {door.Interval, door.Options, door.StrOptions}


def test_tasks_are_silent_where_nobody_listens():
    class Estimator:
        pass

    for task in door.Task(), door.Task.current(Estimator()):
        whole = door.whole_fit(Estimator(), None, None, 3)
        with whole, task, task.part("iteration") as part:
            pass
        assert not part.stop
