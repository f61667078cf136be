"""Tokens, packed for a network."""

import numpy as np
import pytest
import torch

from skdinoad._training.tokens import TokenGrids, check_like, gather, pack


@pytest.fixture
def grids(rng):
    return TokenGrids(rng.normal(size=(3, 2, 4, 6)), rng.normal(size=(3, 2, 6)))


def test_groups_and_tokens_come_in_order(grids):
    tokens, valid = pack(grids, groups=3)
    assert tokens.shape == (3, 3, 10, 2)
    assert valid.all()
    for g in range(3):
        part = slice(2 * g, 2 * g + 2)
        np.testing.assert_allclose(tokens[1, g, :2], grids.prefix[1, :, part], 1e-6)
        np.testing.assert_allclose(tokens[1, g, 7], grids[1][1, 1, part], 1e-6)


def test_invalid_patches_become_zero_and_are_named(grids):
    grids[2][1, 0] = np.nan
    tokens, valid = pack(grids, groups=1)
    assert not valid[2, 6]
    assert valid.sum() == 29
    assert (tokens[2, 0, 6] == 0).all()


def test_one_image_keeps_its_tokens(grids):
    all_of_them, _ = pack(grids, groups=2)
    alone, _ = pack(grids.one(1), groups=2)
    assert (alone[0] == all_of_them[1]).all()
    assert TokenGrids(grids).one(0).prefix is None


def test_channels_that_do_not_divide_are_refused(grids):
    with pytest.raises(ValueError, match="6 channels do not divide into 4 groups"):
        pack(grids, groups=4)


def test_pictures_are_gathered_in_half_precision(grids):
    rows = [(*pack(grids.one(i), 2), i // 2) for i in (0, 2)]
    data = gather(iter(rows), n=3)
    assert data.tokens.shape == (2, 2, 10, 3)
    assert data.tokens.dtype == torch.float16
    assert data.image.tolist() == [0, 1]
    expected, _ = pack(grids, groups=2)
    torch.testing.assert_close(
        data.tokens[1].float(), expected[2], rtol=1e-3, atol=1e-4
    )
    assert len(gather(iter([]), n=3).image) == 0


def test_numbers_too_large_for_half_precision_are_refused(grids):
    grids[0][0, 0] = 1e6
    with pytest.raises(ValueError, match="65504"):
        gather([(*pack(grids.one(0), 1), 0)], n=1)


def test_grids_of_another_extractor_are_refused(grids):
    check_like(grids, channels=6, n_prefix=2)
    for other in ((5, 2), (6, 1)):
        with pytest.raises(ValueError, match="6 channels with 2 tokens"):
            check_like(grids, *other)
    with pytest.raises(ValueError, match="with 0 tokens"):
        check_like(TokenGrids(grids), 6, 2)
