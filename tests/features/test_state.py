import pytest
import safetensors.torch
import torch

from skdinoad.features._state import read, tensors_digest

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.int64)}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_every_format_gives_the_same_tensors(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    save = safetensors.torch.save_file if suffix == ".safetensors" else torch.save
    save(TENSORS, path)
    assert tensors_digest(read(path)) == tensors_digest(TENSORS)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"<html>log in</html>"])
def test_damage_names_the_path(tmp_path, suffix, content):
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cut\..* is damaged"):
        read(path)


@pytest.mark.parametrize(
    "other",
    [
        {**TENSORS, "a": TENSORS["a"].nextafter(torch.tensor(9.0))},
        {**TENSORS, "a": TENSORS["a"].reshape(3, 2)},
        {**TENSORS, "b": TENSORS["b"].int()},
        {"a": TENSORS["a"], "c": TENSORS["b"]},
        {"a": TENSORS["a"]},
    ],
)
def test_digest_sees_values_shapes_types_and_names(other):
    assert tensors_digest(other) != tensors_digest(TENSORS)
