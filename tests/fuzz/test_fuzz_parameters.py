"""Any value of any parameter: it works, or the error names the parameter."""

from numbers import Integral
from pathlib import Path

import numpy as np
import pytest
from fuzzing import QUICK, SLOW, attempt, check_output, fresh, out
from hypothesis import given
from hypothesis import strategies as st

from skdinoad._compat.sklearn import Interval, Options, StrOptions
from skdinoad.testing import make_images

#: Parameters of which a large value is honest work, or memory, and no fault.
COSTLY = {
    "features",
    "cropping",
    "training",
    "n_samples",
    "n_rounds",
    "n_steps",
    "output_size",
    "image_size",
    "depth",
    "latent_dim",
    "map_size",
    "n_codes",
    "student_width",
}

ODD = [
    None,
    True,
    "auto",
    "",
    "nonsense",
    b"auto",
    0,
    -1,
    1,
    2,
    0.5,
    -0.5,
    1.0,
    1e300,
    5e-324,
    float("nan"),
    float("inf"),
    -float("inf"),
    10**30,
    1j,
    np.float32(0.5),
    np.int8(3),
    np.bool_(True),
    np.array(3),
    np.array([1.0, np.nan]),
    np.zeros((0,)),
    np.zeros((2, 2)),
    np.array(["a"]),
    (),
    [],
    (1,),
    (1, 2),
    [0, 10**30],
    (0, 0),
    (-3, 4),
    (2.5, 3),
    ("a", None),
    ((1, 2), (3,)),
    {},
    {"a": 1},
    {1, 2},
    range(3),
    slice(2),
    object(),
    int,
    len,
    Path("nowhere"),
]


def inside(constraint, costly):
    """Return a strategy of values that a constraint allows."""
    if isinstance(constraint, StrOptions | Options):
        return st.sampled_from(sorted(constraint.options, key=str))
    if constraint == "boolean":
        return st.booleans()
    if isinstance(constraint, Interval):
        low, high = constraint.left, constraint.right
        if constraint.type is Integral:
            high = min(high, 12 if costly else high - 1)
            return st.integers(low, high).filter(constraint.is_satisfied_by)
        return st.floats(low, high).filter(constraint.is_satisfied_by)
    return st.nothing()


def values(estimator, name):
    constraints = estimator._parameter_constraints[name]
    parts = [st.sampled_from(ODD)]
    if constraints != "no_validation":
        parts += [inside(item, name in COSTLY) for item in constraints]
    if name in COSTLY:
        parts[0] = parts[0].filter(lambda value: not is_work(value))
    return st.one_of(parts)


def is_work(value):
    """Whether a value would take long: many, or None for a preset's many."""
    return value is None or (isinstance(value, int | float) and value > 50)


def settings_of(name):
    """Return a strategy of one to three parameters and their values."""
    estimator = fresh(name)
    names = sorted(set(estimator.get_params(deep=False)) - {"n_jobs"})
    chosen = st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)
    return chosen.flatmap(
        lambda some: st.fixed_dictionaries({k: values(estimator, k) for k in some})
    )


def check_parameters(name, parameters):
    estimator, X = fresh(name, **parameters), make_images(4)
    names = [parameter.rpartition("__")[2] for parameter in parameters]
    named = "|".join(rf"\b{name}\b" for name in names)
    result = attempt(lambda: out(estimator.fit(X), X), named)
    if result is not None:
        check_output(estimator, 4, result)


@pytest.mark.parametrize("name", QUICK + SLOW)
@given(data=st.data())
def test_any_values_of_parameters(name, data):
    check_parameters(name, data.draw(settings_of(name)))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("DinoPatch", {"score_smoothing": 1e9}),
        ("DinoPatch", {"target_fpr": 5e-324}),
        ("DinoPatch", {"bank__neighborhood": 10**30}),
        ("DinoPatch", {"map_layers": ((1, 2), (3,))}),
        ("DinoPatch", {"map_layers": {}}),
        ("AnomalyDINO", {"bank__n_neighbors": True}),
        ("ForegroundMask", {"threshold": 1e300}),
        ("PCAAligner", {"outline__closing": 10**9}),
        ("PCAAligner", {"outline__canny": ("a", None)}),
        ("PCAAligner", {"rotation": np.int8(3)}),
        ("PCAAligner", {"scale": 1e-12}),
        ("RegionMask", {"region": "nonsense"}),
        ("DinoFeatures", {"runtime__batch_size": np.int8(3)}),
        ("DinoFeatures", {"image_size": ((1, 2), (3,))}),
        ("CNNFeatures", {"layers": ((1, 2), (3,))}),
        ("ThresholdTunerCV", {"cv": (1, 2)}),
        ("ThresholdTunerCV", {"estimator": ()}),
        ("ThresholdTunerCV", {"n_jobs": 10**30}),
        ("ThresholdTunerCV", {"target_fpr": 1 - 1e-12}),
        ("ThresholdTunerCV", {"target_fnr": 1 - 1e-12}),
        ("ThresholdTunerCV", {"scoring": "cost", "cost_matrix": ("a", None)}),
        ("ThresholdTunerCV", {"target_fpr": 5e-324}),
        ("AffineAligner", {"output_size": True}),
        ("DFR", {"training__weight_decay": 10**30}),
        ("DMAD", {"scales": np.array(3)}),
        ("DMAD", {"training__learning_rate": 3}),
        ("Dinomaly", {"augmentation": "dihedral"}),
    ],
)
def test_what_was_found(name, parameters):
    check_parameters(name, parameters)
