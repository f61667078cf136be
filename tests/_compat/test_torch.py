import warnings

import numpy as np
import pytest
import torch

from skdinoad._compat import torch as _torch
from skdinoad._compat.torch import (
    as_tensor,
    multiplies_bfloat16,
    resident,
    resolve_device,
    resolve_dtype,
    seeded,
)


def test_seeded_does_not_move_the_global_state():
    before = torch.get_rng_state()
    with seeded(3):
        first = torch.rand(2)
    with seeded(3):
        assert torch.equal(torch.rand(2), first)
    assert torch.equal(torch.get_rng_state(), before)


def test_devices():
    assert resolve_device("cpu").type == "cpu"
    assert resolve_device("auto").type in {"cpu", "cuda", "mps"}
    if not torch.cuda.is_available():
        with pytest.warns(UserWarning, match="'cuda:3' is not available"):
            assert resolve_device("cuda:3").type == "cpu"


def test_dtypes():
    assert resolve_dtype("bfloat16") is torch.bfloat16


def test_as_tensor_shares_memory_also_of_read_only_arrays():
    array = np.arange(3.0)
    array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = as_tensor(array)
    assert tensor.data_ptr() == array.__array_interface__["data"][0]


def test_resident_shares_memory_on_the_cpu(rng):
    array = rng.random((3, 4), np.float32)
    assert resident(array, "cpu").data_ptr() == array.ctypes.data
    assert not _torch._RESIDENT


def test_copies_elsewhere_live_as_long_as_the_array(rng):
    array = rng.random((3, 4), np.float32)
    first = resident(array, "meta")  # stands for a GPU
    assert resident(array, "meta") is first
    assert resident(array, "meta", keep=False) is not first
    assert len(_torch._RESIDENT) == 1
    del array
    assert not _torch._RESIDENT


@pytest.mark.parametrize(
    ("able", "device", "expected"),
    [
        ({"avx512_bf16": True}, "cpu", True),
        ({"amx_bf16": True, "avx512_bf16": False}, "cpu", True),
        ({"avx2": True}, "cpu", False),
        ({"avx512_bf16": True}, "cuda", False),
    ],
)
def test_bfloat16_only_where_the_cpu_multiplies_it(monkeypatch, able, device, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    assert multiplies_bfloat16(device) is expected
