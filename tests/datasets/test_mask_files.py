import os

import cv2
import numpy as np
import pytest
from PIL import Image

from skdinoad.datasets import read_mask

BOX = np.zeros((12, 16), bool)
BOX[3:7, 5:9] = True

BLACK, WHITE, RED = (0, 0, 0), (255, 255, 255), (255, 0, 0)


def box(dtype, value, background=None):
    """Return a picture with one value inside the box and another outside."""
    value = np.array(value, dtype)
    background = np.zeros_like(value) if background is None else background
    inside = BOX[(..., *[None] * value.ndim)]
    return np.where(inside, value, np.array(background, dtype))


def palette(inside, outside):
    """Return a picture of indices into a palette; the box has the first colour."""
    image = Image.fromarray((~BOX).astype(np.uint8))
    image.putpalette([*inside, *outside])
    assert image.mode == "P"
    return image


LOSSLESS = {
    "black and white": box(np.uint8, 255),
    "the value 1": box(np.uint8, 1),
    "one bit": BOX,
    "dark blue": box(np.uint8, (0, 0, 4)),
    "alpha over black": box(np.uint8, (0, 0, 0, 255)),
    "alpha over white": box(np.uint8, (255, 255, 255, 9), (255, 255, 255, 0)),
    "black on invisible white": box(np.uint8, (0, 0, 0, 255), (255, 255, 255, 0)),
    "faint alpha": box(np.uint8, (9, 9, 9, 200), (9, 9, 9, 100)),
    "nothing to see": box(np.uint8, (0, 3, 0, 0), (0, 0, 0, 0)),
    "opaque": box(np.uint8, (0, 3, 0, 255), (0, 0, 0, 255)),
}


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_every_colour_but_black_marks(tmp_path, kind, suffix):
    path = tmp_path / f"mask.{suffix}"
    how = {"lossless": True, "exact": True} if suffix == "webp" else {}
    Image.fromarray(LOSSLESS[kind]).save(path, **how)
    assert (read_mask(path) == BOX).all()


@pytest.mark.parametrize("suffix", ["png", "gif", "bmp"])
@pytest.mark.parametrize("colours", [(RED, BLACK), (WHITE, BLACK)])
def test_palettes_count_by_their_colours(tmp_path, suffix, colours):
    palette(*colours).save(tmp_path / f"mask.{suffix}")
    assert (read_mask(tmp_path / f"mask.{suffix}") == BOX).all()


def test_a_clear_colour_of_a_palette_is_background(tmp_path):
    palette(BLACK, WHITE).save(tmp_path / "mask.png", transparency=1)
    assert (read_mask(tmp_path / "mask.png") == BOX).all()


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
@pytest.mark.parametrize("value", [1, 200, 65535])
def test_16_bits(tmp_path, suffix, value):
    cv2.imwrite(str(tmp_path / f"mask.{suffix}"), box(np.uint16, value))
    assert (read_mask(tmp_path / f"mask.{suffix}") == BOX).all()


@pytest.mark.parametrize("suffix", ["png", "tif", "ppm"])
def test_16_bits_of_colour(tmp_path, suffix):
    cv2.imwrite(str(tmp_path / f"mask.{suffix}"), box(np.uint16, (0, 3, 0)))
    assert (read_mask(tmp_path / f"mask.{suffix}") == BOX).all()


def test_16_bits_and_alpha(tmp_path):
    cv2.imwrite(str(tmp_path / "mask.png"), box(np.uint16, (0, 0, 0, 5)))
    assert (read_mask(tmp_path / "mask.png") == BOX).all()


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_32_bits(tmp_path, dtype):
    for i, value in enumerate((1, 70000)):
        Image.fromarray(box(dtype, value)).save(tmp_path / f"{i}.tif")
        assert (read_mask(tmp_path / f"{i}.tif") == BOX).all()


def test_nan_is_refused(tmp_path):
    Image.fromarray(box(np.float32, np.nan)).save(tmp_path / "mask.tif")
    with pytest.raises(ValueError, match=r"mask\.tif' holds NaN"):
        read_mask(tmp_path / "mask.tif")


@pytest.mark.parametrize("colour", [WHITE, RED, (60, 60, 60)])
@pytest.mark.parametrize("suffix", ["jpg", "jfif", "webp", "tif"])
def test_lossy_formats_have_no_fringe(tmp_path, suffix, colour):
    large = np.kron(box(np.uint8, colour), np.ones((6, 6, 1), np.uint8))
    path = tmp_path / f"mask.{suffix}"
    how = {"compression": "jpeg"} if suffix == "tif" else {}
    Image.fromarray(large).save(path, quality=75, **how)
    got, right = read_mask(path), np.kron(BOX, np.ones((6, 6), bool))
    assert (got != right).sum() <= 0.1 * right.sum()
    with Image.open(path) as image:  # the file has information to lose
        assert (np.asarray(image).any(axis=-1) != right).sum() > 0.1 * right.sum()


def test_webp_behind_a_colour_profile_is_known_to_be_lossless(tmp_path):
    labels = box(np.uint8, (1, 1, 1))
    labels[0, 0] = 3
    path = tmp_path / "mask.webp"
    Image.fromarray(labels).save(path, lossless=True, icc_profile=b"odd")
    assert read_mask(path).sum() == BOX.sum() + 1


def test_a_full_mask_is_refused(tmp_path):
    palette(WHITE, RED).save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match=r"mask\.png' marks every pixel"):
        read_mask(tmp_path / "mask.png")


def test_masks_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(BOX).convert("L").save(tmp_path / "mask.png", exif=exif)
    assert (read_mask(tmp_path / "mask.png") == np.rot90(BOX, -1)).all()


def test_files_that_cannot_be_read_are_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    good, pages = tmp_path / "good.png", tmp_path / "pages.tif"
    Image.fromarray(noise).save(good)
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:2000])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").write_bytes(b"")
    more = [Image.fromarray(255 - noise)]
    Image.fromarray(noise).save(pages, save_all=True, append_images=more)
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("cut.png", "text.png", "empty.png", "pages.tif", "pipe.png", "no.png"):
        with pytest.raises((ValueError, FileNotFoundError), match=name):
            read_mask(tmp_path / name)
    with pytest.raises(ValueError, match="2 pages"):
        read_mask(pages)
