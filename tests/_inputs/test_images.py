import io

import numpy as np
import pytest
from PIL import Image

from skdinoad._inputs.images import as_images, take


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


def test_float_is_rounded_to_eight_bits():
    images = as_images(np.array([[[0.0, 0.5, 1.0, 0.4 / 255, 0.6 / 255]]]))
    assert images[0][0, :, 0].tolist() == [0, 128, 255, 0, 1]


@pytest.mark.parametrize("keep", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_truncated_file_is_refused(tmp_path, rng, kind, keep):
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(buffer, kind)
    path = tmp_path / "cut.img"
    path.write_bytes(buffer.getvalue()[: int(len(buffer.getvalue()) * keep)])
    with pytest.raises(ValueError, match=r"X\[0\] .*cut.img.*(truncated|read)"):
        as_images([path])[0]


def test_file_that_is_no_image_is_refused(tmp_path):
    (tmp_path / "a.png").write_text("not an image")
    with pytest.raises(ValueError, match=r"X\[0\] .*a.png.* cannot be read"):
        as_images([tmp_path / "a.png"])[0]


def test_empty_file_and_folder_are_refused(tmp_path):
    (tmp_path / "empty.png").touch()
    for path in (tmp_path / "empty.png", tmp_path):
        with pytest.raises(ValueError, match=r"X\[0\] .* cannot be read"):
            as_images([path])[0]


def test_sixteen_bit_file_is_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match="more than 8 bits"):
        as_images([tmp_path / "deep.png"])[0]


def test_sixteen_bit_colour_file_is_refused(tmp_path, rng):
    """Pillow opens it as 8-bit RGB and says nothing."""
    import cv2

    deep = rng.integers(0, 65535, (4, 5, 3), np.uint16)
    for name in ("deep.png", "deep.tiff"):
        cv2.imwrite(str(tmp_path / name), deep)
        with pytest.raises(ValueError, match=r"more than 8 bits|cannot be read"):
            as_images([tmp_path / name])[0]


def test_photograph_taken_upright_is_turned(tmp_path, rng):
    image = Image.fromarray(rng.integers(0, 255, (4, 6, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    image.save(tmp_path / "a.png", exif=exif)
    images = as_images([tmp_path / "a.png"])
    assert images[0].shape == (6, 4, 3)
    assert images.size(0) == (6, 4)


def test_palette_and_grey_files_become_colour(tmp_path):
    for mode in ("L", "P", "1", "CMYK", "LA"):
        suffix = "tif" if mode == "CMYK" else "png"
        path = tmp_path / f"{mode}.{suffix}"
        Image.new(mode, (3, 2)).save(path)
        expected = (2, 3, 4) if mode == "LA" else (2, 3, 3)
        assert as_images([path])[0].shape == expected


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
        (np.zeros((2, 4, 5), np.uint16), "65535"),
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


def test_size_of_a_truncated_file_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "part.png"
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"X\[0\] .*part.png.* truncated"):
        as_images([str(path)]).size(0)


def test_the_order_of_colours_is_said_where_input_is_refused():
    with pytest.raises(ValueError, match=r"RGB .*not OpenCV's BGR"):
        as_images([])
