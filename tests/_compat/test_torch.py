import inspect
import threading
import warnings

import numpy as np
import pytest
import torch

from skdinoad._compat import torch as _torch
from skdinoad._compat.torch import (
    as_tensor,
    isolated_torch_state,
    isolated_torch_steps,
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
    first = resident(array, "meta")  # simulates a GPU
    assert resident(array, "meta") is first
    assert resident(array, "meta", keep=False) is not first
    assert len(_torch._RESIDENT) == 1
    del array
    assert not _torch._RESIDENT


def test_layers_of_a_bank_travel_once(rng):
    bank = rng.random((2, 3, 4), np.float32)
    first = resident(bank[1], "meta")
    assert resident(bank[1], "meta") is first
    assert resident(bank[0], "meta") is not first
    assert resident(bank[1].T, "meta") is not first
    assert len(_torch._RESIDENT) == 3
    del bank
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


def test_as_tensor_takes_arrays_mapped_from_disk(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(12, dtype=np.float16).reshape(3, 4))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")[:, ::2]
    tensor = as_tensor(mapped)
    assert tensor.data_ptr() == mapped.ctypes.data
    del mapped
    assert tensor.tolist() == [[0, 2], [4, 6], [8, 10]]


def test_gradients_flow_inside_whatever_is_off_outside():
    for outside in (torch.no_grad, torch.inference_mode):
        with outside(), isolated_torch_state():
            x = torch.ones(2, requires_grad=True)
            x.square().sum().backward()
        assert x.grad.tolist() == [2, 2]
        with outside():
            assert not (torch.ones(1, requires_grad=True) * 2).requires_grad


def test_casts_of_autocast_are_not_kept_while_weights_change():
    layer = torch.nn.Linear(4, 4)
    with torch.autocast("cpu", torch.bfloat16), isolated_torch_state():
        with torch.autocast("cpu", torch.bfloat16):
            layer(torch.ones(1, 4))
        with torch.no_grad():
            layer.weight.zero_()
            layer.bias.zero_()
        with torch.autocast("cpu", torch.bfloat16):
            assert not layer(torch.ones(1, 4)).any()
        assert layer(torch.ones(1, 4)).dtype is torch.float32


def test_threads_share_process_wide_settings_and_the_last_puts_them_back():
    entered, leave = threading.Event(), threading.Event()

    def work():
        with isolated_torch_state():
            entered.set()
            leave.wait(60)

    torch.set_default_dtype(torch.float64)
    try:
        with isolated_torch_state():
            other = threading.Thread(target=work)
            other.start()
            assert entered.wait(60)
        assert torch.get_default_dtype() is torch.float32  # the other still needs it
        leave.set()
        other.join()
        assert torch.get_default_dtype() is torch.float64
    finally:
        leave.set()
        torch.set_default_dtype(torch.float32)


def test_steps_are_undisturbed_and_the_caller_between_them_too():
    seen = []

    def steps():
        for number in range(2):
            seen.append(torch.is_grad_enabled())
            yield number

    with torch.no_grad():
        for number in isolated_torch_steps(steps()):
            assert not torch.is_grad_enabled()
            assert len(seen) == number + 1  # tensors are created only when requested
    assert seen == [True, True]


def test_determinism_stays_wished_for_without_errors():
    torch.use_deterministic_algorithms(True)
    try:
        with isolated_torch_state():
            assert torch.get_deterministic_debug_mode() == 1  # warns
        assert torch.get_deterministic_debug_mode() == 2
    finally:
        torch.use_deterministic_algorithms(False)


def test_precision_set_for_each_device_apart_stays():
    backend = torch.backends.cuda.matmul
    if not hasattr(backend, "fp32_precision"):
        pytest.skip("this torch has one setting for all")
    found, backend.fp32_precision = backend.fp32_precision, "tf32"
    try:
        with isolated_torch_state():
            pass
        assert backend.fp32_precision == "tf32"
    finally:
        backend.fp32_precision = found


def test_decorated_functions_keep_their_signature_and_errors():
    @isolated_torch_state()
    def fails(a, *, b=2):
        raise KeyError(a)

    assert list(inspect.signature(fails).parameters) == ["a", "b"]
    with np.errstate(all="raise"):
        with pytest.raises(KeyError):
            fails(1)
        assert np.geterr()["under"] == "raise"
