"""Networks with official weights, against the official arithmetic, built by name."""

import numpy as np
import pytest
import torch
from torch.nn.functional import (
    batch_norm,
    conv2d,
    conv_transpose2d,
    grid_sample,
    interpolate,
)

from skdinoad import DMAD, CNNFeatures
from skdinoad.networks import (
    MovingStudent,
    Reconstructor,
    dinomaly_weights,
    dmad_weights,
    moved,
)
from skdinoad.testing import make_images

CHANNELS = (256, 512, 1024)


class Official:
    """A state dict that grows as the arithmetic asks for random tensors."""

    def __init__(self):
        self.tensors = {}

    def get(self, name, *shape, scale=1.0, shift=0.0):
        if name not in self.tensors:
            self.tensors[name] = torch.randn(*shape) * scale + shift
        return self.tensors[name]

    def conv(self, name, x, c, k=3, stride=1, bias=False, up=False):
        shape = (x.shape[1], c, 2, 2) if up else (c, x.shape[1], k, k)
        w = self.get(f"{name}.weight", *shape, scale=(2 / (c * k * k)) ** 0.5)
        b = self.get(f"{name}.bias", c, scale=0.1) if bias else None
        if up:
            return conv_transpose2d(x, w, b, stride=2)
        return conv2d(x, w, b, stride=stride, padding=k // 2)

    def norm(self, name, x):
        c = x.shape[1]
        mean = self.get(f"{name}.running_mean", c, scale=0.1)
        var = self.get(f"{name}.running_var", c, scale=0).fill_(0.8)
        w = self.get(f"{name}.weight", c, scale=0.1, shift=1)
        b = self.get(f"{name}.bias", c, scale=0.1)
        self.tensors[f"{name}.num_batches_tracked"] = torch.tensor(7)
        return batch_norm(x, mean, var, w, b)

    def block(self, name, x, c, *, stride=1, up=False):
        out = self.norm(f"{name}.bn1", self.conv(f"{name}.conv1", x, c // 2, 1)).relu()
        out = self.conv(f"{name}.conv2", out, c // 2, 3, stride, up=up)
        out = self.norm(f"{name}.bn2", out).relu()
        out = self.norm(f"{name}.bn3", self.conv(f"{name}.conv3", out, c, 1))
        if up:
            x = self.conv(f"{name}.upsample.0", x, c, up=True)
            x = self.norm(f"{name}.upsample.1", x)
        elif stride > 1:
            x = self.conv(f"{name}.downsample.0", x, c, 1, stride)
            x = self.norm(f"{name}.downsample.1", x)
        return (out + x).relu()


def with_places(x):
    """Add the four coordinate channels for a size that 4 divides."""
    channels = []
    for axis in (2, 3):
        n = x.shape[axis]
        whole = torch.arange(n) / (n - 1)
        group = (torch.arange(n // 4) / (n // 4 - 1)).repeat_interleave(4)
        for line in (whole - group, group):
            line = (2 * line - 1).reshape((-1, 1) if axis == 2 else (1, -1))
            channels.append(line.expand(x.shape[2:]))
    return torch.cat([x, torch.stack(channels)[None].expand(len(x), -1, -1, -1)], 1)


def offsets(net, x):
    """Fields from coarse to fine, and those that undo them."""
    size = x.shape[2:]
    for i in (0, 3):
        x = net.conv(f"conv_offset1.{i}.conv", with_places(x), 64)
        net.get(f"conv_offset1.{i}.weight", 64, x.shape[1], 3, 3)  # never used
        x = net.norm(f"conv_offset1.{i + 1}", x).relu()
    r = net.conv("conv_offset2.0.convs.1", x.relu(), 64, bias=True)
    r = net.norm("conv_offset2.0.convs.2", r).relu()
    r = x + net.conv("conv_offset2.0.convs.4", r, 64, 1, bias=True)
    x = torch.cat([net.norm("conv_offset2.1", r), x], 1)
    fields = []
    for name, n, most in (("4", 3, 8), ("3", 1, 3), ("4_", 3, 8), ("3_", 1, 3)):
        h = x
        for j in range(n):
            h = net.conv(f"conv_offset{name}.{3 * j}", h, 64, 3, 2, bias=True)
            h = net.norm(f"conv_offset{name}.{3 * j + 1}", h).relu()
        h = net.conv(f"conv_offset{name}.{3 * n}", h, 2, bias=True).tanh()
        h = interpolate(h * 2 * most / 256, size, mode="bilinear", align_corners=True)
        fields.append(h)
    return fields[:2], fields[2:]


def bottleneck(net, levels, vq):
    a, b, c = levels

    def step(i, x, to, stride=2, kind=""):
        return net.norm(
            f"bn{i}{kind}", net.conv(f"conv{i}{kind}", x, to, 3, stride)
        ).relu()

    if vq:
        codes = net.get("vq3.embedding.weight", 200, 1024)
        rows = c.movedim(1, -1)
        nearest = torch.cdist(rows.reshape(-1, 1024), codes).argmin(1)
        quantised = codes[nearest].reshape(rows.shape).movedim(-1, 1)
        a, b, c = (step(i + 1, x, 64, 1, "_r") for i, x in enumerate(levels))
        a = step(2, step(1, a, 64), 64)
        parts = [a, step(3, b, 64), c, quantised]
        net.conv("conv4", levels[2], 1024, 1)  # never used
        net.norm("bn4", levels[2])
    else:
        parts = [step(2, step(1, a, 512), 1024), step(3, b, 1024), c]
    x = net.block("bn_layer.0", torch.cat(parts, 1), 2048, stride=2)
    for k in (1, 2):
        x = net.block(f"bn_layer.{k}", x, 2048)
    return x


def decoder(net, x):
    out = []
    for stage, (c, n) in enumerate(((1024, 3), (512, 4), (256, 6)), start=1):
        for k in range(n):
            x = net.block(f"layer{stage}.{k}", x, c, up=k == 0)
        out.append(x)
    return out[::-1]


@pytest.mark.parametrize("vq", [True, False])
def test_dmads_official_weights_give_the_official_outputs(vq):
    torch.manual_seed(0)
    image = torch.randn(2, 3, 32, 32)
    levels = [torch.randn(2, c, 8 >> i, 8 >> i).relu() for i, c in enumerate(CHANNELS)]
    offset, bn, student = Official(), Official(), Official()
    with torch.inference_mode():
        forth, back = offsets(offset, image)
        rebuilt = decoder(student, bottleneck(bn, levels, vq))
    parts = {"offset": offset.tensors, "bn": bn.tensors, "decoder": student.tensors}
    weights = dmad_weights(parts)
    network = MovingStudent.of(
        {"scales": [(8 / 256, 8), (3 / 256, 2)]},
        {
            "channels": CHANNELS,
            "depth": (6, 4, 3),
            "codes": 200 if vq else 0,
            "signed": False,
        },
    )
    network.load_state_dict(weights)
    network.eval()
    with torch.inference_mode():
        ours = network.fields(image)
        found, _ = network.distiller(levels)
    for a, b in zip([*ours[0], *ours[1]], [*forth, *back]):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    for a, b in zip(found, rebuilt):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * b.abs().max().item())


def test_a_detector_takes_over_a_file_in_the_official_layout(tmp_path):
    torch.manual_seed(0)
    offset, bn, student = Official(), Official(), Official()
    levels = [torch.randn(1, c, 8 >> i, 8 >> i).relu() for i, c in enumerate(CHANNELS)]
    with torch.inference_mode():
        offsets(offset, torch.randn(1, 3, 32, 32))
        decoder(student, bottleneck(bn, levels, vq=True))
    parts = {"offset": offset.tensors, "bn": bn.tensors, "decoder": student.tensors}
    torch.save(parts, tmp_path / "wres50_screw_I.pth")
    teacher = CNNFeatures(
        model="wide_resnet50_2.tv_in1k",
        weights="random:0",
        layers=(1, 2, 3),
        image_size=(64, 64),
        interpolation="bilinear",
        standardize=False,
    )
    X = make_images(4, size=(64, 64))
    path = tmp_path / "wres50_screw_I.pth"
    detector = DMAD.load_official(path, X[:3], features=teacher)
    for name, value in dmad_weights(parts).items():
        assert np.array_equal(detector.student_[name], value.numpy()), name
    assert detector.holdout_scores_.shape == (3,)
    np.testing.assert_allclose(
        detector.score_samples(X[:3]), detector.holdout_scores_, rtol=1e-4
    )
    assert detector.code_usage_.shape == (200,)
    # What it scores is the official error: levels of the moved image, rebuilt.
    x = torch.from_numpy(np.moveaxis(detector.features_.prepared(X)[0], -1, 1))
    with torch.inference_mode():
        forth, back = offsets(offset, x)
        taught = detector._taught(moved(x, forth))
        rebuilt = decoder(student, bottleneck(bn, taught, vq=True))
        error = sum(
            interpolate(
                1 - torch.cosine_similarity(a, b)[:, None],
                x.shape[2:],
                mode="bilinear",
                align_corners=True,
            )
            for a, b in zip(taught, rebuilt)
        )
        error = moved(error, back[::-1])[:, 0].numpy()
    parts = detector.set_params(score_smoothing=0, aggregate="mean").score_parts(X)
    # Half-pixel centres where the official code puts corners on corners: 2 % here.
    np.testing.assert_allclose(parts[:, 0], error.mean((1, 2)), rtol=0.05)


def test_official_images_are_moved_alike():
    """The official code clamps positions; ours repeats the border."""
    torch.manual_seed(0)
    x, field = torch.randn(1, 3, 16, 16), 0.2 * torch.randn(1, 2, 16, 16)
    line = torch.linspace(-1, 1, 16)
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)
    grid = (grid + field.permute(0, 2, 3, 1)).clamp(-1, 1)
    expected = grid_sample(x, grid, align_corners=True)
    torch.testing.assert_close(moved(x, [field]), expected, rtol=1e-5, atol=1e-5)


def test_dinomalys_official_weights_are_taken_by_name():
    torch.manual_seed(0)
    given = {"encoder.blocks.0.attn.qkv.weight": torch.randn(24, 8)}
    given["bottleneck.0.fc1.weight"] = torch.randn(32, 8)
    given["bottleneck.0.fc1.bias"] = torch.randn(32)
    given["bottleneck.0.fc2.weight"] = torch.randn(8, 32)
    given["bottleneck.0.fc2.bias"] = torch.randn(8)
    for i in range(2):
        for name, shape in {
            "norm1": (8,),
            "attn.qkv": (24, 8),
            "attn.proj": (8, 8),
            "norm2": (8,),
            "mlp.fc1": (32, 8),
            "mlp.fc2": (8, 32),
        }.items():
            given[f"decoder.{i}.{name}.weight"] = torch.randn(shape)
            given[f"decoder.{i}.{name}.bias"] = torch.randn(shape[0])
    weights = dinomaly_weights({f"module.{k}": v for k, v in given.items()})
    network = Reconstructor(8, 2, 2, 0.0)
    network.load_state_dict(weights)
    assert torch.equal(
        network.blocks[1].project.weight, given["decoder.1.attn.proj.weight"]
    )
    assert torch.equal(network.bottleneck.outer.bias, given["bottleneck.0.fc2.bias"])


def test_other_files_are_refused():
    with pytest.raises(ValueError, match=r"official DMAD: it lacks bn, offset"):
        dmad_weights({"decoder": {}})
    with pytest.raises(ValueError, match=r"official Dinomaly: it lacks bottleneck"):
        dinomaly_weights({"encoder.x": torch.zeros(1)})
