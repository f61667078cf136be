"""Other libraries beside this one: seconds, memory and quality on the same images.

Every method runs in a process of its own, with the same weights in its network, uint8
images in memory, an input of 224 x 224 pixels, batches of 8 and float32 but where our
default is another. Peers are asked through their own torch modules, without a data
loader, logging or thresholds, and their preprocessing is given the size alone.
Otherwise defaults, but: ViT-S instead of larger networks; one decoder depth, batch and
number of steps for both Dinomalys, whose rates rise in the first tenth of them;
windows of 224 pixels that overlap by 14 for SuperADD, which is made for DINOv3.

"fit s" begins with the images. "ms" is score and map of one image; a peer's map is that
of its network's input, ours the photograph's. "MiB" is the peak in fit, scores and maps
beyond the process with its libraries and network. AUPRO is ours, of maps brought to the
photograph. What is not installed is left out, and so is a network whose features are
not ours to 1e-3.

    pip install -c constraints.txt -r benchmarks/peers_requirements.txt
    python benchmarks/peers.py --root ../shared/data --categories hazelnut paper_gla01
    python benchmarks/peers.py --root ../shared/data --categories hazelnut \\
        --method "anomalib AnomalyDINO"     # one of them, as a line of JSON
"""

import argparse
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
import time
import warnings
from contextlib import contextmanager
from itertools import chain, islice, repeat

import cv2
import numpy as np
import torch
from _common import categories, environment, known_masks, print_table
from PIL import Image
from table import peak_memory

from skdinoad import AnomalyDINO, CNNFeatures, DinoFeatures, Dinomaly, iter_maps
from skdinoad._compat.timm import timm
from skdinoad.features._backbones import load_backbone
from skdinoad.metrics import aupro_score, image_auroc_score

SIZE, BATCH = (224, 224), 8
VIT, CNN = "vit_small_patch14_dinov2", "tf_efficientnet_lite0"

#: Levels of the CNN, of strides 8 and 16, as PatchCore has them of a ResNet.
LEVELS = (2, 3)

FIGURES = ["fit s", "ms", "MiB", "image AUROC", "AUPRO"]


# -- ours -----------------------------------------------------------------------------


class Ours:
    """A detector of this library."""

    def __init__(self, detector):
        self.detector = detector
        detector.features.fit()  # loads the network

    def fit(self, X):
        self.detector.fit(X)

    def judge(self, X):
        """Yield score (higher = more normal) and map (or None) of each image."""
        return zip(self.detector.score_samples(X), iter_maps(self.detector, X))


def vit(**kind):
    return DinoFeatures(image_size=SIZE, batch_size=BATCH, **kind)


def our_anomaly_dino(options):
    return Ours(AnomalyDINO(features=vit()))


def our_one_block(options):
    kind = {"rotations": "none", "masking": False, "bank_size": None}
    return Ours(AnomalyDINO(features=vit(layers="last", norm=True), **kind))


def our_dinomaly(options, **kind):
    given = {"depth": options.depth, "n_iter": options.steps}
    given |= {"batch_size": options.batch, "holdout": None}
    features = vit(layers="middle", groups=2, concatenate=False)
    return Ours(Dinomaly(features=features, **given, **kind))


def our_dinomaly_float32(options):
    return our_dinomaly(options, precision="float32")


def our_patch_core(options):
    features = CNNFeatures(layers=LEVELS, image_size=SIZE, batch_size=BATCH)
    kind = {"rotations": "none", "masking": False, "bank_size": 0.1}
    return Ours(AnomalyDINO(features=features, aggregate="max", **kind))


# -- peers ----------------------------------------------------------------------------


class Anomalib:
    """A model of anomalib with a memory bank, which ``finish`` makes of all batches."""

    def __init__(self, model, kind, finish=None, **settings):
        self.model, self.finish = model, finish
        processor = kind.configure_pre_processor(image_size=SIZE, **settings)
        self.transform = processor.transform

    def batch(self, X):
        X = [torch.from_numpy(x).permute(2, 0, 1) / 255 for x in X]
        return torch.stack([self.transform(x) for x in X])

    def fit(self, X):
        self.model.train()
        for rows in slices(len(X)):
            self.model(self.batch(X[rows]))
        self.finish()

    @torch.inference_mode()
    def judge(self, X):
        self.model.eval()
        for rows in slices(len(X)):
            out = self.model(self.batch(X[rows]))
            scores, maps = -out.pred_score.reshape(-1), out.anomaly_map
            yield from zip(scores.tolist(), maps.reshape(-1, *SIZE).numpy())


def anomalib_anomaly_dino(options):
    from anomalib.models.image.anomaly_dino.lightning_model import AnomalyDINO
    from anomalib.models.image.anomaly_dino.torch_model import AnomalyDINOModel

    with our_weights(VIT):
        model = AnomalyDINOModel(encoder_name=VIT)
    return Anomalib(model, AnomalyDINO, model.fit)


def anomalib_patch_core(options):
    from anomalib.models.image.patchcore.lightning_model import Patchcore
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    with our_weights(CNN):
        model = PatchcoreModel(layers=LEVELS, backbone=CNN)
    return Anomalib(model, Patchcore, lambda: model.subsample_embedding(0.1))


def anomalib_super_add(options):
    from anomalib.models.image.super_add.lightning_model import SuperADD
    from anomalib.models.image.super_add.torch_model import SuperADDModel

    with our_weights(VIT):
        model = SuperADDModel(backbone=VIT, patch_size=SIZE[0], patch_overlap=14)
    model.backbone.dino.set_input_size(SIZE)
    return Anomalib(model, SuperADD, model.subsample_embedding)


class AnomalibDinomaly(Anomalib):
    """anomalib's Dinomaly with the loop that Lightning makes of it."""

    def __init__(self, module, options):
        super().__init__(module.model, type(module), crop_size=SIZE[0])
        self.module, self.options = module, options

    def fit(self, X):
        from anomalib.models.image.dinomaly import lightning_model as home

        known = home.TRAINING_CONFIG
        weights = list(self.module.trainable_modules.parameters())
        optimizer = home.StableAdamW([{"params": weights}], **known["optimizer"])
        plan = {**known["scheduler"], "total_iters": self.options.steps}
        plan["warmup_iters"] = min(plan["warmup_iters"], self.options.steps // 10)
        scheduler = home.WarmCosineScheduler(optimizer, **plan)
        images = self.batch(X)
        self.model.train()
        for step, rows in enumerate(self.draw(len(X))):
            loss = self.model(images[rows], global_step=step)
            optimizer.zero_grad()
            loss.backward()
            limit = known["trainer"]["gradient_clip_val"]
            torch.nn.utils.clip_grad_norm_(weights, limit)
            optimizer.step()
            scheduler.step()

    def draw(self, n):
        """Return the rows of each step: all images in turn, reordered each time."""
        size = min(self.options.batch, n)
        epochs = (torch.randperm(n)[: n - n % size].split(size) for _ in repeat(None))
        return islice(chain.from_iterable(epochs), self.options.steps)


def anomalib_dinomaly(options):
    from anomalib.models.image.dinomaly.lightning_model import Dinomaly

    parts = ("pre_processor", "post_processor", "evaluator", "visualizer")
    with our_weights(VIT):
        module = Dinomaly(
            VIT, decoder_depth=options.depth, **dict.fromkeys(parts, False)
        )
    # Its two groups of the decoder's blocks, of which there need not be eight.
    half = options.depth // 2
    blocks = range(options.depth)
    module.model.fuse_layer_decoder = [[*blocks[:half]], [*blocks[half:]]]
    return AnomalibDinomaly(module, options)


class Imgad:
    """imgad's nearest neighbour of the whole image's vector: it has no maps."""

    def __init__(self):
        from imgad.detectors.base import build_detector
        from imgad.features.timm_models import TimmFeatureExtractor

        shape = {"input_size": (3, *SIZE), "crop_pct": 1.0}
        kind = {"timm_kwargs": {"dynamic_img_size": True}, "batch_size": BATCH}
        self.extractor = TimmFeatureExtractor(VIT, data_config=shape, **kind)
        with our_weights(VIT):
            self.extractor._load()
        self.detector = build_detector("knn")

    def vectors(self, X):
        return self.extractor.extract(list(X), show_progress=False)

    def fit(self, X):
        self.detector.fit(self.vectors(X))

    def judge(self, X):
        return zip(-self.detector.score(self.vectors(X)), repeat(None))


def slices(n):
    return (slice(start, start + BATCH) for start in range(0, n, BATCH))


# -- the same weights -----------------------------------------------------------------


@contextmanager
def our_weights(model):
    """Give the networks that timm builds inside the weights that ours have."""
    features = (DinoFeatures if model == VIT else CNNFeatures)()
    ours = load_backbone(features.model, features.weights).network
    create = timm.create_model

    def filled(name, *args, pretrained=False, **kind):
        network = create(name, *args, **kind)
        missing, _ = network.load_state_dict(ours.state_dict(), strict=False)
        error = np.inf if missing else difference(network, ours)
        if error > 1e-3:
            sys.exit(f"{name}: features differ from ours by {error:.1e}, {missing[:3]}")
        return network

    timm.create_model = filled
    try:
        yield
    finally:
        timm.create_model = create


@torch.inference_mode()
def difference(network, ours):
    """Return how much the features of noise differ at most, at the network's own size.

    At another one libraries resample position embeddings in ways of their own.
    """
    network.eval()
    x = torch.randn(1, *ours.pretrained_cfg["input_size"])
    if hasattr(network, "forward_features"):
        pairs = [(network.forward_features(x), ours.forward_features(x))]
    else:
        kind = {"indices": list(LEVELS), "intermediates_only": True}
        pairs = zip(network(x), ours.forward_intermediates(x, **kind))
    return max(float((a - b).abs().max()) for a, b in pairs)


#: What each method is built by, and the package that it needs.
METHODS = {
    "skdinoad AnomalyDINO": (our_anomaly_dino, "skdinoad"),
    "skdinoad AnomalyDINO, one block": (our_one_block, "skdinoad"),
    "anomalib AnomalyDINO": (anomalib_anomaly_dino, "anomalib"),
    "anomalib SuperADD": (anomalib_super_add, "anomalib"),
    "imgad knn": (lambda options: Imgad(), "imgad"),
    "skdinoad AnomalyDINO, CNN": (our_patch_core, "skdinoad"),
    "anomalib PatchCore, CNN": (anomalib_patch_core, "anomalib"),
    "skdinoad Dinomaly": (our_dinomaly, "skdinoad"),
    "skdinoad Dinomaly, float32": (our_dinomaly_float32, "skdinoad"),
    "anomalib Dinomaly": (anomalib_dinomaly, "anomalib"),
}

#: Ours and the peer that does the same.
PAIRS = [
    ("skdinoad AnomalyDINO", "anomalib AnomalyDINO"),
    ("skdinoad AnomalyDINO, one block", "anomalib AnomalyDINO"),
    ("skdinoad AnomalyDINO", "anomalib SuperADD"),
    ("skdinoad AnomalyDINO", "imgad knn"),
    ("skdinoad AnomalyDINO, CNN", "anomalib PatchCore, CNN"),
    ("skdinoad Dinomaly", "anomalib Dinomaly"),
    ("skdinoad Dinomaly, float32", "anomalib Dinomaly"),
]


# -- measuring ------------------------------------------------------------------------


def main():
    options = arguments()
    everything = dict(categories(options.root, options.categories))
    if options.method:
        [data] = everything.values()
        return print(json.dumps(measure(METHODS[options.method][0](options), data)))
    print(f"{environment()}; {versions()}\n")
    for name, data in everything.items():
        there = [m for m in options.methods if available(METHODS[m][1])]
        found = {method: run(method, name, options) for method in there}
        found = {method: row for method, row in found.items() if row}
        print_table([name, *FIGURES], [[m, *shown(row)] for m, row in found.items()])
        print()
        head = ["peer / ours", "ours", "fit, scores, maps", "MiB"]
        print_table([*head, "image AUROC", "AUPRO"], list(ratios(found, len(data.y))))
        print()


def arguments():
    out = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out.add_argument("--root", required=True, help="folder of MVTec-style categories")
    out.add_argument("--categories", nargs="*", help="only these folder names")
    out.add_argument("--methods", nargs="*", default=[*METHODS], choices=METHODS)
    out.add_argument("--method", choices=METHODS, help="one, in this process")
    out.add_argument("--depth", type=int, default=8, help="of Dinomaly's decoder")
    out.add_argument("--steps", type=int, default=100, help="of Dinomaly's training")
    out.add_argument("--batch", type=int, default=4, help="images in each of them")
    return out.parse_args()


def available(package):
    return importlib.util.find_spec(package) is not None


def versions():
    names = [n for n in ("anomalib", "imgad") if available(n)]
    return ", ".join(f"{n} {importlib.metadata.version(n)}" for n in names)


def run(method, category, options):
    """Return the figures of a method in a fresh process, None if it has failed."""
    command = [sys.executable, __file__, "--method", method, "--categories", category]
    for name in ("root", "depth", "steps", "batch"):
        command += [f"--{name}", str(getattr(options, name))]
    out = subprocess.run(command, capture_output=True, text=True)
    if out.returncode:
        said = out.stderr.strip().splitlines() or [f"status {out.returncode}"]
        print(f"{method}, left out: {said[-1]}\n")
        return None
    return json.loads(out.stdout.splitlines()[-1])


def measure(method, data):
    """Return all figures of a method; its maps are made again for the quality."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    train, test = read(data.train), read(data.test)
    with peak_memory() as peak:
        start = time.perf_counter()
        method.fit(train)
        fitted = time.perf_counter()
        for _ in method.judge(test):
            pass
        ms = 1000 * (time.perf_counter() - fitted) / len(test)
    auroc, aupro = quality(method, test, data)
    return dict(zip(FIGURES, [fitted - start, ms, peak.mib, auroc, aupro]))


def read(paths):
    return [np.asarray(Image.open(path).convert("RGB")) for path in paths]


def quality(method, X, data):
    """Return image AUROC, and AUPRO or None."""
    scores, maps = zip(*method.judge(X))
    masks = known_masks(data)
    auroc = image_auroc_score(data.y, np.array(scores))
    if not masks or maps[0] is None:
        return auroc, None
    maps = [cv2.resize(maps[i], mask.shape[::-1]) for i, mask in masks.items()]
    return auroc, aupro_score(list(masks.values()), maps)


def shown(row):
    digits = dict(zip(FIGURES, (1, 0, 0, 3, 3)))
    return ["-" if row[f] is None else f"{row[f]:.{digits[f]}f}" for f in FIGURES]


def ratios(found, n):
    """Yield by how many times the peer takes longer and more, and how much worse."""

    def total(row):
        return row["fit s"] + n * row["ms"] / 1000

    for ours, peer in PAIRS:
        if ours in found and peer in found:
            a, b = found[ours], found[peer]
            times = total(b) / total(a), b["MiB"] / max(1, a["MiB"])
            worse = [
                f"{b[f] - a[f]:+.3f}" if b[f] is not None else "-"
                for f in ("image AUROC", "AUPRO")
            ]
            yield [peer, ours, *(f"{x:.2f}" for x in times), *worse]


if __name__ == "__main__":
    main()
