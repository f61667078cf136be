import skdinoad._compat.sklearn as door


def test_private_names_of_scikit_learn_still_exist():
    assert door.name_estimators([1, 1]) == [("int-1", 1), ("int-2", 1)]
    assert {door.Interval, door.Options, door.StrOptions}
