import os

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from skdinoad._inputs.images import as_images, as_shown, take


@pytest.fixture
def files(tmp_path, rng):
    """Return (paths, arrays): the same images as PNG files and in memory."""
    arrays = [rng.integers(0, 255, size, np.uint8) for size in [(9, 7, 3), (5, 6, 3)]]
    paths = [tmp_path / f"{i}.png" for i in range(2)]
    for path, array in zip(paths, arrays):
        Image.fromarray(array).save(path)
    return paths, arrays


def test_paths_equal_arrays(files):
    paths, arrays = files
    for form in (paths, [str(p) for p in paths], np.array([str(p) for p in paths])):
        images = as_images(form)
        assert [images.size(i) for i in range(2)] == [(9, 7), (5, 6)]
        assert all(np.array_equal(a, b) for a, b in zip(images, arrays))


def test_paths_are_read_only_when_indexed(files):
    paths, arrays = files
    images = as_images([*paths, "missing.png"])
    assert np.array_equal(images[1], arrays[1])
    with pytest.raises(FileNotFoundError, match=r"X\[2\] \('missing.png'\)"):
        images[2]


def test_slices_keep_the_original_row_numbers(files):
    images = as_images(["a.png", "b.png", "c.png"])[np.array([2, 0])]
    assert len(images) == 2
    assert images[1:].name(0) == "X[0] ('a.png')"
    with pytest.raises(FileNotFoundError, match=r"X\[2\]"):
        images[0]


def test_pillow_images_are_accepted(rng):
    array = rng.integers(0, 255, (4, 5, 3), np.uint8)
    images = as_images([Image.fromarray(array)])
    assert np.array_equal(images[0], array)
    assert images.size(0) == (4, 5)


@pytest.mark.parametrize(
    ("X", "words"),
    [
        ("folder/a.png", "single path"),
        (3, "int"),
        (np.zeros((2, 3)), "shape"),
        (np.zeros((2, 5, 6, 7)), r"X\[0\] has shape \(5, 6, 7\)"),
        (np.array([["a.png", "b.png"]]), "1-D"),
        (np.array([["a.png", 0]], object), "labels"),
        (np.zeros((2, 4, 5), np.uint16), "8 bits"),
        (np.zeros((2, 4, 5), bool), "uint8"),
        ([np.zeros((4, 4, 2))], r"X\[0\]"),
        (np.full((2, 4, 5), np.inf), "infinite"),
        (np.full((2, 4, 5), -0.5), "0..1"),
    ],
)
def test_unusable_input_is_explained(X, words):
    with pytest.raises((ValueError, TypeError), match=words):
        as_images(X)[0]


def test_take_works_on_lists_and_arrays():
    assert take(["a", "b", "c"], [2, 0]) == ["c", "a"]
    assert take(np.array([1, 2, 3]), [2, 0]).tolist() == [3, 1]


def test_files_that_cannot_be_read_are_named(tmp_path):
    path = tmp_path / "part.png"
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes()[:200])
    for call in (lambda images: images[1], lambda images: images.size(1)):
        with pytest.raises(ValueError, match=r"X\[1\] .*part.png.* truncated"):
            call(as_images([pixels, str(path)]))


def test_file_that_changed_after_its_size_was_asked_is_refused(tmp_path):
    path = tmp_path / "a.png"
    Image.new("L", (8, 6)).save(path)
    images = as_images([path, path])
    assert images.size(1) == (6, 8)
    Image.new("L", (8, 7)).save(path)
    assert images[0].shape == (7, 8, 3)
    with pytest.raises(ValueError, match=r"X\[1\] .*\(6, 8\).*\(7, 8\).*changed"):
        images[1:][0]
    assert images.size(0) == (7, 8)  # recorded when the image was read
    Image.new("L", (8, 9)).save(path)
    assert images.size(0) == (7, 8)
    with pytest.raises(ValueError, match=r"X\[0\] .*\(7, 8\).*\(9, 8\).*changed"):
        images[0]


def test_any_kind_of_path_is_one(files):
    paths, arrays = files
    with os.scandir(paths[0].parent) as entries:
        entries = sorted(entries, key=lambda entry: entry.name)
    assert np.array_equal(as_images(entries)[0], arrays[0])
    with pytest.raises(TypeError, match="single path"):
        as_images(entries[0])


# -- arrays and similar inputs ------------------------------------------------------


def test_masked_arrays_are_refused(rng):
    data = rng.random((2, 6, 7, 3))
    masked = np.ma.masked_array(data, data > 0.5)
    with pytest.raises(TypeError, match="X is a masked array"):
        as_images(masked)
    with pytest.raises(TypeError, match=r"X\[1\] is a masked array"):
        as_images([data[0], masked[1]])[1]


@pytest.mark.parametrize("label", [0, "good", None, np.float32(1)])
def test_pairs_of_image_and_label_are_refused(rng, files, label):
    image = rng.random((6, 7, 3))
    for item in (image, files[0][0], Image.new("L", (3, 4)), torch.zeros(3, 6, 7)):
        for pair in ((item, label), [label, item], (item, item)):
            with pytest.raises(TypeError, match=r"X\[0\] .*image and label"):
                as_images([pair])[0]
    with pytest.raises(TypeError, match=r"X\[0\] is a tuple"):
        as_images([([[1, 2], [3, 4]], label)])[0]
    with pytest.raises(ValueError, match="labels as y"):
        as_images((image[np.newaxis], np.zeros(1)))[0]


def test_tensors_of_torch_are_images(rng):
    image = torch.from_numpy(rng.random((6, 7, 3)))
    expected = as_images([image.numpy()])[0]
    graded = image.clone().requires_grad_()
    for X in ([image], [graded], graded[None], graded.detach()[None]):
        images = as_images(X)
        assert np.array_equal(images[0], expected)
        assert images.size(0) == (6, 7)
    half = as_images([image.bfloat16()])[0]
    assert np.abs(half.astype(int) - expected).max() <= 1
    with pytest.raises(ValueError, match=r"X\[0\] .*Channels first"):
        as_images([image.permute(2, 0, 1)])[0]


def test_what_gives_no_array_is_named():
    class Elsewhere:
        def __array__(self, *args, **kwargs):
            raise TypeError("on another device")

    with pytest.raises(TypeError, match=r"X\[1\] is a Elsewhere.*another device"):
        as_images([np.zeros((2, 2)), Elsewhere()])[1]
    with pytest.raises(TypeError, match=r"X is a Elsewhere.*another device"):
        as_images(Elsewhere())


def test_other_containers_keep_working(tmp_path, rng):
    array = rng.integers(0, 255, (2, 4, 5, 3), np.uint8)
    kept = np.memmap(tmp_path / "a.bin", np.uint8, "w+", shape=array.shape)
    kept[:] = array
    frozen = array.copy()
    frozen.flags.writeable = False

    class Like:
        def __array__(self, *args, **kwargs):
            return array

    nested = (array / 255).tolist()
    for X in (kept, frozen, Like(), nested, list(kept), [Image.fromarray(array[0])]):
        assert np.array_equal(as_images(X)[0], array[0])


def test_generators_are_told_to_become_lists():
    for X in ((image for image in np.zeros((2, 3, 4))), {"a.png"}):
        with pytest.raises(TypeError, match=r"list\(X\)"):
            as_images(X)


# -- depth --------------------------------------------------------------------------


def test_range_is_learned_from_deep_images_only(tmp_path):
    deep = np.array([[[1000, 1400]], [[1100, 1800]]], np.uint16)
    assert as_images(deep).learn_range() == (800, 2000)
    assert as_images(deep[1:]).learn_range() == (925, 1975)
    cv2.imwrite(str(tmp_path / "a.png"), deep[1])
    assert as_images([deep[0], tmp_path / "a.png"]).learn_range() == (800, 2000)
    for X in (np.zeros((2, 3, 5)), [np.zeros((3, 4), np.uint8), deep[0]]):
        assert as_images(X).learn_range() is None


def test_hidden_pixels_have_no_part_in_the_range():
    deep = np.full((1, 2, 2, 4), 65535, np.uint16)
    deep[0, 0] = [[100, 100, 100, 65535], [500, 500, 500, 65535]]
    deep[0, 1, :, 3] = 0
    assert as_images(deep).learn_range() == (0, 600)


def test_mixed_depths_are_named():
    deep, flat = np.full((3, 4), 4095, np.uint16), np.zeros((3, 4), np.uint8)
    with pytest.raises(ValueError, match=r"X\[1\] .*uint8.*16 bits"):
        as_images([deep, flat]).learn_range()
    images = as_images([flat, deep])
    with pytest.raises(ValueError, match=r"X\[1\] .*uint16.*4095.*12 bits.*8 bits"):
        list(images.read_by(images.learn_range()))


def test_parts_are_read_as_the_whole_is():
    images = as_images(np.full((3, 4, 5), 1500, np.uint16))
    assert not images.has_reader
    images = images.read_by((1000, 2000))
    assert images[1:].has_reader
    assert images.own_range is None
    assert (images[1:][0] == 128).all()
    images = as_images(np.array([[[1000, 1400]], [[1100, 1800]]], np.uint16))
    assert images[1:].by_own_range().own_range == (925, 1975)


def test_shown_images_keep_what_is_hidden_and_are_scaled_by_themselves():
    image = np.zeros((1, 2, 2, 4), np.uint8)
    image[..., :3] = 9
    assert as_shown(image)[0][..., :3].tolist() == [[[9] * 3] * 2] * 2
    deep = np.array([[[0, 400]]], np.uint16)
    assert as_shown(deep)[0][0, :, 0].tolist() == [0, 204]


# -- notes --------------------------------------------------------------------------


def test_images_know_what_was_hidden_and_where_alpha_was_missing(rng):
    clear = rng.integers(0, 255, (4, 5, 4), np.uint8)
    clear[..., 3] = 255
    holed = clear.copy()
    holed[0, 0, 3] = 127
    images = as_images([clear[..., :3], clear, holed, clear[..., 0]])
    images[1], images[:1][0]
    assert not images.hidden
    assert images.without_alpha() == ["X[0]"]
    images[2:].read_all()
    assert images.hidden
    assert images.without_alpha() == ["X[0]", "X[3]"]


def test_the_order_of_colours_is_said_where_input_is_refused():
    with pytest.raises(ValueError, match=r"RGB .*not OpenCV's BGR"):
        as_images([])
