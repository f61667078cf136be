"""Any file: its pixels, or an error that names row and path; never a part of it."""

import io
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from skdinoad._inputs.files import file_size
from skdinoad._inputs.images import as_images

FORMATS = ["PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000", "TGA", "ICO"]
MODES = ["RGB", "L", "P", "CMYK", "RGBA", "LA", "1", "I;16", "I", "F", "LAB"]


@cache
def corpus():
    """Return images of every format and mode that Pillow writes, and some text."""
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 255, (24, 31, 4), np.uint8))
    known = {"text": b"no image", "nothing": b"", "zeros": bytes(400)}
    for kind in FORMATS:
        for mode in MODES:
            data = written(in_mode(picture, mode), kind)
            if data is not None:
                known[f"{kind} {mode}"] = data
    turned = Image.Exif()
    turned[0x0112] = 6
    known["turned"] = written(picture.convert("RGB"), "JPEG", exif=turned)
    pages = {"save_all": True, "append_images": [picture.rotate(90)]}
    known["animated"] = written(picture.convert("P"), "GIF", **pages)
    return known


def in_mode(picture, mode):
    if mode == "LAB":
        return Image.new("LAB", picture.size, (200, 20, 30))
    return picture.convert("L" if mode == "I;16" else mode.split(";")[0]).convert(mode)


def written(picture, kind, **options):
    """Return the bytes of an image file, None if there is none of this mode."""
    buffer = io.BytesIO()
    try:
        picture.save(buffer, kind, **options)
    except (OSError, ValueError, KeyError):
        return None
    return buffer.getvalue()


@st.composite
def damaged(draw, data):
    """Return bytes with some of them changed, cut out, or cut off."""
    data = bytearray(data)
    most = draw(st.sampled_from([80, len(data)]))  # headers are the more delicate part
    for _ in range(draw(st.integers(1, 4)) if data else 0):
        start = draw(st.integers(0, min(most, len(data))))
        value = draw(st.sampled_from([b"\xff", b"\0", b"\x7f", b"\x01\0", b"\xff" * 4]))
        data[start : start + draw(st.sampled_from([0, 1, 4, len(value)]))] = value
    return bytes(data)


def check_file(path):
    """Return the pixels of a file, None if it is refused by name."""
    try:
        size = file_size(path, f"X[0] ({str(path)!r})")
        image = as_images([path])[0]
    except (ValueError, OSError, TypeError) as error:
        if "X[0]" not in str(error) or str(path) not in str(error):
            raise AssertionError(f"no name in: {error}") from error
        return None
    assert image.shape[:2] == tuple(size)
    assert image.dtype == np.uint8
    assert image.shape[2] in (3, 4)
    return image


@pytest.mark.parametrize("name", sorted(corpus()))
def test_every_kind_of_file_is_read_or_named(tmp_path, name):
    path = tmp_path / "a.png"  # whatever it is
    path.write_bytes(corpus()[name])
    image = check_file(path)
    if name.split()[-1] in ("RGB", "L", "RGBA"):
        assert image is not None


@pytest.mark.parametrize("name", sorted(corpus()))
@given(data=st.data())
def test_damaged_files_are_read_or_named(tmp_path, name, data):
    path = tmp_path / "a.png"
    path.write_bytes(data.draw(damaged(corpus()[name])))
    check_file(path)


@pytest.mark.parametrize("name", sorted(corpus()))
@given(data=st.data())
def test_cut_files_are_refused_or_whole(tmp_path, name, data):
    path, whole = tmp_path / "a.png", corpus()[name]
    path.write_bytes(whole)
    expected = check_file(path)
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    image = check_file(path)
    assert image is None or np.array_equal(image, expected)
