import io
import os
import socket

import cv2
import numpy as np
import pytest
from PIL import Image

from skdinoad._inputs.files import (
    file_size,
    from_pillow,
    pillow_size,
    read_bytes,
    read_file,
)


def deep_to_bgr(image):
    """Return an RGB(A) array in the channel order of OpenCV."""
    return image if image.ndim == 2 else image[..., [2, 1, 0, 3][: image.shape[2]]]


def with_orientation(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def turned(array, orientation):
    """Return an array as a viewer shows it with an EXIF orientation."""
    poses = {
        2: array[:, ::-1],
        3: np.rot90(array, 2),
        4: array[::-1],
        5: np.swapaxes(array, 0, 1),
        6: np.rot90(array, -1),
        7: np.rot90(array[::-1], 1),
        8: np.rot90(array, 1),
    }
    return poses.get(orientation, array)


@pytest.mark.parametrize("keep", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "PPM", "JPEG2000"])
def test_truncated_file_is_refused(tmp_path, rng, kind, keep):
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(buffer, kind)
    path = tmp_path / "cut.img"
    path.write_bytes(buffer.getvalue()[: int(len(buffer.getvalue()) * keep)])
    with pytest.raises(ValueError, match=r"X\[0\] .*(truncated|read)"):
        read_file(path, "X[0] 'cut.img'")


@pytest.mark.parametrize("kind", ["png", "tiff", "ppm", "jp2"])
def test_truncated_deep_file_is_refused(tmp_path, rng, kind):
    path = tmp_path / f"cut.{kind}"
    cv2.imwrite(str(path), rng.integers(0, 65535, (64, 64, 3), np.uint16))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.7)])
    with pytest.raises(ValueError, match=r"X\[0\] .*(truncated|read)"):
        read_file(path, "X[0]")


def test_what_is_no_image_is_refused(tmp_path):
    text, empty = tmp_path / "a.png", tmp_path / "empty.png"
    text.write_text("not an image")
    empty.touch()
    cases = {text: "identify", empty: "is empty", tmp_path: "folder"}
    for path, why in cases.items():
        for call in (read_file, file_size):
            with pytest.raises(ValueError, match=f"X0 cannot be read .*{why}"):
                call(path, "X0")


def test_unusable_paths_are_named(tmp_path):
    for path, error in [
        ("a\0b.png", ValueError),
        ("a" * 5000, ValueError),
        (tmp_path / "a.png" / "b.png", FileNotFoundError),
        ("", FileNotFoundError),
    ]:
        for call in (read_file, file_size):
            with pytest.raises(error, match="X0 "):
                call(path, "X0")


def test_pipes_sockets_and_devices_are_not_opened(tmp_path):
    pipe, plug = tmp_path / "pipe.png", str(tmp_path / "s")
    os.mkfifo(pipe)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(plug)
        for path in (pipe, plug, "/dev/zero"):
            for call in (read_file, file_size):
                with pytest.raises(ValueError, match=r"X0 .*pipe, socket or device"):
                    call(path, "X0")


@pytest.mark.parametrize("limit", [19_000, 9_000])
def test_too_large_file_is_named(tmp_path, monkeypatch, limit):
    """Pillow warns above its limit, and raises above twice the limit."""
    path = tmp_path / "line.png"
    Image.new("L", (200, 100)).save(path)
    assert read_file(path, "X0").shape == (100, 200, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    for call in (read_file, file_size):
        with pytest.raises(ValueError, match=f"X0 .*MAX_IMAGE_PIXELS = {limit}"):
            call(path, "X0")


@pytest.mark.filterwarnings("ignore")
def test_too_large_file_is_refused_where_warnings_are_quiet(tmp_path, monkeypatch):
    test_too_large_file_is_named(tmp_path, monkeypatch, 19_000)


@pytest.mark.parametrize("kind", ["tif", "gif", "png", "webp"])
def test_pages_are_refused_with_their_number(tmp_path, rng, kind):
    pages = [Image.fromarray(rng.integers(0, 255, (8, 9), np.uint8)) for _ in range(3)]
    path = tmp_path / f"a.{kind}"
    pages[0].save(path, save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match="X0 holds 3 pages"):
        read_file(path, "X0")
    with Image.open(path) as image, pytest.raises(ValueError, match="X0 holds 3"):
        from_pillow(image, "X0")


def test_deep_pages_are_refused_too(tmp_path, rng):
    pages = [Image.fromarray(rng.integers(0, 9999, (8, 9), np.uint16))] * 2
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match="X0 holds 2 pages"):
        read_file(tmp_path / "a.tif", "X0")


def test_photograph_with_its_preview_is_one_image(tmp_path):
    first, preview = Image.new("RGB", (16, 8), "red"), Image.new("RGB", (4, 2), "blue")
    first.save(tmp_path / "a.mpo", save_all=True, append_images=[preview])
    pixels = read_file(tmp_path / "a.mpo", "X0")
    assert pixels.shape == (8, 16, 3)
    assert pixels[4, 4, 0] > 200


@pytest.mark.parametrize("kind", ["png", "tif", "jpg", "webp"])
@pytest.mark.parametrize("orientation", range(10))
def test_photographs_are_turned_upright(tmp_path, kind, orientation):
    """Size and pixels agree for each orientation; 0 and 9 do not rotate."""
    array = np.zeros((32, 48, 3), np.uint8)
    array[:16, :16], array[16:, :16] = (250, 0, 0), (0, 0, 250)
    path = tmp_path / f"a.{kind}"
    exact = {"lossless": True} if kind == "webp" else {"quality": 95}
    Image.fromarray(array).save(path, exif=with_orientation(orientation), **exact)
    pixels, expected = read_file(path, "X0"), turned(array, orientation)
    assert pixels.shape == expected.shape
    assert np.abs(pixels[4::8, 4::8].astype(int) - expected[4::8, 4::8]).max() < 40
    assert file_size(path, "X0") == expected.shape[:2]
    with Image.open(path) as image:
        assert pillow_size(image) == expected.shape[:2]
        assert from_pillow(image, "X0").shape == expected.shape


@pytest.mark.parametrize("kind", ["png", "tif"])
@pytest.mark.parametrize("orientation", range(10))
def test_deep_photographs_are_turned_upright(tmp_path, rng, kind, orientation):
    array, path = rng.integers(0, 65535, (6, 9), np.uint16), tmp_path / f"a.{kind}"
    Image.fromarray(array).save(path, exif=with_orientation(orientation))
    expected = turned(array, orientation)
    assert np.array_equal(read_file(path, "X0"), expected)
    assert file_size(path, "X0") == expected.shape


@pytest.mark.parametrize("channels", [0, 3, 4])
@pytest.mark.parametrize("kind", ["png", "tif", "jp2", "ppm", "pgm"])
def test_sixteen_bits_are_read_whole(tmp_path, rng, kind, channels):
    if (kind, channels) in {("ppm", 0), ("ppm", 4), ("pgm", 3), ("pgm", 4)}:
        pytest.skip("no such files")
    shape = (64, 80, channels) if channels else (64, 80)
    image, path = rng.integers(0, 65535, shape, np.uint16), str(tmp_path / f"a.{kind}")
    cv2.imwrite(path, deep_to_bgr(image))
    pixels = read_file(path, "X0")
    assert pixels.dtype == np.uint16
    if kind == "jp2":  # lossy for noise
        assert np.corrcoef(pixels.ravel(), image.ravel())[0, 1] > 0.5
        pixels, image = pixels.shape, image.shape
    assert np.array_equal(pixels, image)


def test_a_camera_s_twelve_bits_keep_their_values(tmp_path, rng):
    """Pillow would scale the values of such files to 16 bits, or truncate them to 8."""
    for magic, shape in ((b"P5", (6, 9)), (b"P6", (6, 9, 3))):
        image, path = rng.integers(0, 4096, shape, np.uint16), tmp_path / "a.pnm"
        header = magic + b"\n9 6\n4095\n"
        path.write_bytes(header + image.astype(">u2").tobytes())
        assert np.array_equal(read_file(path, "X0"), image)


def test_ten_bit_avif_is_read_whole_or_refused(tmp_path, rng):
    pixels, path = rng.integers(0, 1023, (64, 80, 3), np.uint16), tmp_path / "a.avif"
    try:
        cv2.imwrite(str(path), pixels, [cv2.IMWRITE_AVIF_DEPTH, 10])
    except cv2.error:
        pytest.skip("this OpenCV writes no AVIF")
    assert read_file(path, "X0").dtype == np.uint16


@pytest.mark.parametrize("kind", ["jp2", "avif"])
def test_eight_bits_stay_eight_in_formats_that_may_have_more(tmp_path, kind):
    if not cv2.haveImageWriter(f"a.{kind}"):
        pytest.skip(f"this OpenCV does not know {kind}")  # these files raise an error
    Image.new("RGB", (64, 80), (250, 130, 10)).save(tmp_path / f"a.{kind}")
    pixels = read_file(tmp_path / f"a.{kind}", "X0")
    assert pixels.dtype == np.uint8
    assert np.abs(pixels[40, 32].astype(int) - (250, 130, 10)).max() < 4


def test_sixteen_bits_that_cannot_be_read_whole_are_refused(tmp_path, rng):
    image = rng.integers(0, 65535, (3, 6, 9), np.uint16).astype(">u2")
    numbers = np.array([9, 6, 3], ">u2").tobytes()
    header = b"\x01\xda\x00\x02\x00\x03" + numbers + bytes(500)
    (tmp_path / "a.sgi").write_bytes(header + image.tobytes())
    with pytest.raises(ValueError, match=r"X0 .*SGI.*more than 8 bits"):
        read_file(tmp_path / "a.sgi", "X0")


def test_pillow_image_with_lost_bits_is_refused(tmp_path, rng):
    cv2.imwrite(str(tmp_path / "a.png"), rng.integers(0, 65535, (6, 9, 3), np.uint16))
    with (
        Image.open(tmp_path / "a.png") as image,
        pytest.raises(ValueError, match=r"X0 .*pass its path"),
    ):
        from_pillow(image, "X0")


def test_palette_grey_and_print_colours_become_red_green_blue(tmp_path):
    for mode in ("L", "P", "1", "CMYK", "LA", "YCbCr", "PA"):
        suffix = "png" if mode in {"L", "P", "1", "LA"} else "tif"
        suffix = "jpg" if mode == "YCbCr" else suffix
        image, path = Image.new(mode, (3, 2)), tmp_path / f"{mode}.{suffix}"
        if mode == "PA":
            assert from_pillow(image, "X0").shape == (2, 3, 4)
            continue
        image.save(path)
        expected = (2, 3, 4) if mode == "LA" else (2, 3, 3)
        assert read_file(path, "X0").shape == expected


def test_printers_colours_of_jpeg_come_right(tmp_path):
    red = Image.new("RGB", (16, 16), (200, 30, 40)).convert("CMYK")
    red.save(tmp_path / "a.jpg", quality=95)
    pixels = read_file(tmp_path / "a.jpg", "X0")
    assert np.abs(pixels[8, 8].astype(int) - (200, 30, 40)).max() < 6


def test_transparent_colour_becomes_alpha(tmp_path):
    image = Image.new("P", (3, 2))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((0, 0), 1)
    image.save(tmp_path / "a.png", transparency=1)
    pixels = read_file(tmp_path / "a.png", "X0")
    assert pixels[0, 0].tolist() == [40, 50, 60, 0]
    assert pixels[1, 1].tolist() == [10, 20, 30, 255]


def test_numbers_that_are_no_colours_come_as_they_are(tmp_path, rng):
    for array in (rng.random((2, 3)).astype("f4"), np.full((2, 3), 70000, np.int32)):
        Image.fromarray(array).save(tmp_path / "a.tif")
        assert np.array_equal(read_file(tmp_path / "a.tif", "X0"), array)


def test_unknown_colours_are_refused_by_name():
    with pytest.raises(ValueError, match=r"X0 .*unknown kind"):
        from_pillow(Image.new("La", (3, 2)), "X0")


@pytest.mark.parametrize("kind", ["png", "jpg", "tiff", "bmp", "webp", "jp2", "ppm"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_bytes_are_read_as_their_file_is(tmp_path, rng, kind, dtype):
    if dtype is np.uint16 and kind in ("jpg", "bmp", "webp"):
        pytest.skip("8 bits only")
    path = tmp_path / f"a.{kind}"
    pixels = rng.integers(0, np.iinfo(dtype).max, (64, 72, 3), dtype)
    assert cv2.imwrite(str(path), pixels)
    found, expected = read_bytes(path.read_bytes(), "X0"), read_file(path, "X0")
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_bytes_of_a_phone_are_the_picture_and_not_its_preview(tmp_path):
    picture, preview = Image.new("RGB", (30, 20), "red"), Image.new("RGB", (6, 4))
    path = tmp_path / "a.jpg"
    picture.save(path, "MPO", save_all=True, append_images=[preview])
    assert read_bytes(path.read_bytes(), "X0").shape == (20, 30, 3)


def test_bytes_of_no_image_or_of_a_kind_that_runs_programs_are_refused():
    script = io.BytesIO()
    Image.new("RGB", (8, 8)).save(script, "EPS")
    cases = {b"": "no bytes", b"no image": "file of 8 bytes", script.getvalue(): "of"}
    for content, why in cases.items():
        with pytest.raises(ValueError, match=f"X0 cannot be read .*{why}"):
            read_bytes(content, "X0")
