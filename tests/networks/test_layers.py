import torch

from skdinoad.networks._layers import convolution


def test_a_convolution_keeps_or_halves_the_grid_and_is_not_negative():
    x = torch.randn(2, 3, 9, 8)
    assert convolution(3, 5)(x).shape == (2, 5, 9, 8)
    halved = convolution(3, 5, stride=2)(x)
    assert halved.shape == (2, 5, 5, 4)
    assert halved.min() == 0
