import numpy as np
import pytest

from skdinoad._inputs.pixels import (
    full_depth,
    hidden_pixels,
    is_deep,
    to_uint8,
    value_limits,
    widened,
)


def with_alpha(image, hidden):
    """Return an image with alpha of its own dtype, 0 where hidden."""
    full = 1 if image.dtype.kind == "f" else np.iinfo(image.dtype).max
    alpha = np.where(hidden, 0, full).astype(image.dtype)
    return np.dstack([image, alpha])


def test_float_is_rounded_to_eight_bits():
    image = np.array([[0.0, 0.5, 1.0, 0.4 / 255, 0.6 / 255]])
    assert to_uint8(image, "X0")[0, :, 0].tolist() == [0, 128, 255, 0, 1]


def test_deep_values_are_scaled_and_clipped():
    image = np.array([[1000, 1010, 1020, 900, 5000]], np.uint16)
    out = to_uint8(image, "X0", (1000, 1020))
    assert out[0, :, 0].tolist() == [0, 128, 255, 0, 255]
    assert np.array_equal(to_uint8(image.astype(">u2"), "X0", (1000, 1020)), out)


def test_alpha_is_not_scaled_with_the_values():
    image = np.full((1, 2, 3), 1010, np.uint16)
    out = to_uint8(with_alpha(image, [[False, True]]), "X0", (1000, 1020))
    assert out[..., 3].tolist() == [[255, 0]]
    assert out[0].tolist() == [[128, 128, 128, 255], [128, 128, 128, 0]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float64])
def test_hidden_pixels_have_the_colours_of_their_neighbours(rng, dtype):
    image = rng.random((6, 9, 3))
    if np.dtype(dtype).kind == "u":
        image = image * np.iinfo(dtype).max
    image, hidden = image.astype(dtype), rng.random((6, 9)) < 0.5
    value_range = (0, 65535) if dtype == np.uint16 else None
    given = with_alpha(image, hidden)
    out = to_uint8(given, "X0", value_range)
    seen = set(map(tuple, out[~hidden, :3].tolist()))
    assert set(map(tuple, out[hidden, :3].tolist())) <= seen
    given[hidden, :3] = 0
    assert np.array_equal(to_uint8(given, "X0", value_range), out)
    given[..., :3] = image
    plain = to_uint8(image, "X0", value_range)
    assert np.array_equal(out[~hidden, :3], plain[~hidden])
    assert np.array_equal(hidden_pixels(out), hidden)
    shown = to_uint8(given, "X0", value_range, fill=False)
    assert np.array_equal(shown[..., :3], plain)


def test_the_nearest_valid_pixel_goes_on(rng):
    image = rng.integers(0, 255, (8, 9, 4), np.uint8)
    image[..., 3] = 255
    image[:, 5:, 3] = 127
    image[:, :2, 3] = 0
    out = to_uint8(image, "X0")
    assert (out[:, 5:, :3] == image[:, 4:5, :3]).all()
    assert (out[:, :2, :3] == image[:, 2:3, :3]).all()
    assert np.array_equal(out[..., 3], image[..., 3])


def test_an_image_hidden_as_a_whole_has_one_colour(rng):
    image = rng.integers(0, 255, (8, 9, 4), np.uint8)
    image[..., 3] = 0
    assert (
        np.unique(to_uint8(image, "X0")[..., :3].reshape(-1, 3), axis=0).shape[0] == 1
    )


def test_half_of_alpha_divides_valid_from_hidden():
    for dtype, pair in (
        (np.uint8, (127, 128)),
        (np.uint16, (32767, 32768)),
        ("f4", (0.4999, 0.5)),
    ):
        image = np.zeros((1, 2, 4), dtype)
        image[0, :, 3] = pair
        assert hidden_pixels(image).tolist() == [[True, False]]
        out = to_uint8(image, "X0", (0, 65535) if dtype == np.uint16 else None)
        assert hidden_pixels(out).tolist() == [[True, False]]


def test_what_is_hidden_may_hold_anything_but_alpha_may_not():
    image = np.full((2, 2, 4), 0.5)
    image[0, 0] = [np.nan, np.inf, 7, 0]
    assert to_uint8(image, "X0")[0, 0].tolist() == [128, 128, 128, 0]
    image[0, 0, 3] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        to_uint8(image, "X0")


def test_input_is_not_written_to():
    image = with_alpha(np.zeros((2, 2, 3), np.uint8), np.ones((2, 2), bool))
    image.flags.writeable = False
    to_uint8(image, "X0")
    assert not image.any()


def test_limits_are_those_of_visible_pixels():
    image = np.full((2, 2, 3), 500, np.uint16)
    image[0, 0], image[1, 1] = 0, 900
    assert value_limits(image, "X0") == (0, 900)
    hidden = [[True, False], [False, False]]
    assert value_limits(with_alpha(image, hidden), "X0") == (500, 900)
    assert value_limits(with_alpha(image, np.ones((2, 2))), "X0") == (None, None)
    assert value_limits(image.astype(">u2"), "X0") == (0, 900)
    with pytest.raises(ValueError, match=r"X0 .*uint8.*one depth"):
        value_limits(image.astype(np.uint8), "X0")


def test_range_is_wider_by_a_quarter_and_bounded():
    assert widened(1000, 2000) == (750, 2250)
    assert widened(100, 65000) == (0, 65535)
    assert widened(0, 0) == (0, 1)
    assert widened(65535, 65535) == (65534, 65535)


def test_deep_is_sixteen_bits_of_either_byte_order():
    kinds = {">u2": True, "<u2": True, "u1": False, "i2": False, "u4": False}
    assert {k: is_deep(np.zeros(1, k)) for k in kinds} == kinds


@pytest.mark.parametrize(
    ("high", "bits"), [(200, 8), (1023, 10), (1024, 12), (4095, 12), (9000, 14)]
)
def test_unexpected_depth_names_value_and_bits(high, bits):
    image = np.full((2, 2), high, np.uint16)
    with pytest.raises(ValueError, match=f"X0 .*up to {high}, .* {bits} bits"):
        to_uint8(image, "X0")


def test_eight_bits_where_sixteen_are_expected_are_refused():
    for dtype in (np.uint8, np.float32):
        words = rf"X0 .*{np.dtype(dtype)}.*16 bits.*\(5, 9\)"
        with pytest.raises(ValueError, match=words):
            to_uint8(np.zeros((2, 2), dtype), "X0", (5, 9))


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.full((2, 2), 4095, np.int32), r"4095.*12 bits.*astype\(np.uint16\)"),
        (np.full((2, 2), 99, np.int64), r"99: pass X.astype\(np.uint8\) if"),
        (np.full((2, 2), 2**20, np.uint32), "1048576.*in the same way"),
        (np.full((2, 2), -5, np.int16), "-5.*in the same way"),
        (np.zeros((2, 2), bool), r"\* 255"),
        (np.zeros((2, 2), complex), "complex128"),
        (np.full((2, 2), 255.0), "Divide by 255"),
        (np.full((2, 2), 4095.0), r"12 bits.*uint16"),
        (np.full((2, 2), -0.5), "in the same way"),
        (np.full((2, 2), 1e9), "in the same way"),
        (np.full((2, 2), np.inf), "infinite"),
        (np.zeros((3, 6, 7)), "Channels first"),
        (np.zeros((3, 6, 7, 3)), "A batch in a list"),
        (np.zeros((0, 6, 3)), "zero area"),
        (np.array(None), "object"),
    ],
)
def test_remedies_fit_the_values(image, words):
    with pytest.raises(ValueError, match=f"(?s)X0 .*{words}"):
        to_uint8(image, "X0")


def test_full_depth_keeps_all_bits_that_are_seen(rng):
    image = rng.integers(0, 65535, (3, 4, 3), np.uint16)
    assert np.array_equal(full_depth(image.astype(">u2"), "X0"), image)
    assert np.array_equal(full_depth(image[..., 0], "X0")[..., 2], image[..., 0])
    hidden = rng.random((3, 4)) < 0.5
    one, other = (with_alpha(image // k, hidden) for k in (1, 2))
    other[~hidden] = one[~hidden]
    assert np.array_equal(full_depth(one, "X0"), full_depth(other, "X0"))
    assert np.array_equal(full_depth(one, "X0")[~hidden, :3], image[~hidden])
