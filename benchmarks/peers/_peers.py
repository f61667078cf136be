"""Methods of this library and of others with a common interface, for ``peers.py``.

Each method is created with its network loaded and our weights in it. ``fit(X)`` learns
from a list of uint8 images, and ``judge(X)`` yields (score, map) of each image.
"""

import sys
from contextlib import contextmanager
from itertools import chain, islice, repeat

import numpy as np
import torch

from skdinoad import (
    AnomalyDINO,
    CNNFeatures,
    DinoFeatures,
    Dinomaly,
    MemoryBank,
    Runtime,
    Training,
    iter_maps,
)
from skdinoad._compat.timm import timm  # before anomalib: repairs torchvision
from skdinoad.features._backbones import load_backbone

SIZE, BATCH = (224, 224), 8
VIT, CNN = "vit_small_patch14_dinov2", "tf_efficientnet_lite0"

#: Levels of the CNN with strides 8 and 16, as PatchCore uses those of a ResNet.
LEVELS = (2, 3)

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
    return DinoFeatures(image_size=SIZE, **kind, runtime=Runtime(batch_size=BATCH))


def our_anomaly_dino(options):
    return Ours(AnomalyDINO(features=vit()))


def our_one_block(options):
    kind = {"rotations": "none", "masking": None, "bank": MemoryBank(size=None)}
    return Ours(AnomalyDINO(features=vit(layers="last", norm=True), **kind))


def our_dinomaly(options, **kind):
    steps = {"n_iter": options.steps, "batch_size": options.batch}
    given = {"depth": options.depth, "training": Training(**steps, **kind)}
    features = vit(layers="middle", groups=2, norm=False)
    return Ours(Dinomaly(features=features, holdout=None, **given))


def our_dinomaly_float32(options):
    return our_dinomaly(options, precision="float32")


def our_patch_core(options):
    size = {"image_size": SIZE, "runtime": Runtime(batch_size=BATCH)}
    features = CNNFeatures(layers=LEVELS, standardize=False, **size)
    kind = {"rotations": "none", "masking": None, "bank": MemoryBank(size=0.1)}
    return Ours(AnomalyDINO(features=features, aggregate="max", **kind))


# -- peers ----------------------------------------------------------------------------


class Anomalib:
    """A model of anomalib with a memory bank, built by ``finish`` after all batches."""

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
    """anomalib's Dinomaly with the training loop that Lightning would run."""

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
        """Return the rows of each step: passes over all images, shuffled each time."""
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
    # Its two groups of decoder blocks; the number of blocks need not be eight.
    half = options.depth // 2
    blocks = range(options.depth)
    module.model.fuse_layer_decoder = [[*blocks[:half]], [*blocks[half:]]]
    return AnomalibDinomaly(module, options)


class Authors:
    """AnomalyDINO from its authors' functions, in the order of ``src/detection.py``.

    Their own loop reads files and requires a GPU. References are rotated, which is
    their default; they select the categories to mask by name.
    """

    def __init__(self, clone, masking):
        self.masking = masking
        sys.path.insert(0, clone)
        from src import backbones, detection

        self.home = detection
        load = torch.hub.load
        torch.hub.load = lambda *_: AuthorsNetwork()
        try:
            self.model = backbones.get_model("dinov2_vits14", "cpu", SIZE[0])
        finally:
            torch.hub.load = load
        self.model.transform.transforms[0].size = SIZE

    def features(self, x):
        tensor, self.grid = self.model.prepare_image(x)
        return self.model.extract_features(tensor)

    def fit(self, X):
        turned = (x for image in X for x in self.home.augment_image(image))
        bank = np.concatenate([self.features(x) for x in turned])
        self.index = self.home.faiss.IndexFlatL2(bank.shape[1])
        self.home.faiss.normalize_L2(bank)
        self.index.add(bank)

    def judge(self, X):
        for x in X:
            found = self.features(x)
            mask = np.ones(len(found), bool)
            if self.masking:
                mask = self.model.compute_background_mask(
                    found, self.grid, threshold=10, masking_type=True
                )
            found, distances = found[mask], np.zeros(mask.shape)
            self.home.faiss.normalize_L2(found)
            distances[mask] = self.index.search(found, k=1)[0].squeeze(1) / 2
            heat = self.home.dists2map(distances.reshape(self.grid), x.shape)
            yield -self.home.mean_top1p(distances), heat


class AuthorsNetwork(torch.nn.Module):
    """Our ViT with the methods that networks of torch.hub have and timm's lack."""

    patch_size = 14

    def __init__(self):
        super().__init__()
        with our_weights(VIT):
            self.network = timm.create_model(VIT, dynamic_img_size=True)

    def get_intermediate_layers(self, x):
        return self.network.get_intermediate_layers(x, norm=True)


class Imgad:
    """imgad's nearest neighbour of the vector of the whole image; it has no maps."""

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
    """Let timm build networks with our weights inside the context."""
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
    """Return the largest difference of features of noise, at the network's own size.

    At other sizes the libraries resample position embeddings differently.
    """
    network.eval()
    x = torch.randn(1, *ours.pretrained_cfg["input_size"])
    if hasattr(network, "forward_features"):
        pairs = [(network.forward_features(x), ours.forward_features(x))]
    else:
        kind = {"indices": list(LEVELS), "intermediates_only": True}
        pairs = zip(network(x), ours.forward_intermediates(x, **kind))
    return max(float((a - b).abs().max()) for a, b in pairs)


#: The method that needs a clone of its repository.
AUTHORS = "authors' AnomalyDINO"

#: How each method is created, and the package that it needs.
METHODS = {
    "skdinoad AnomalyDINO": (our_anomaly_dino, "skdinoad"),
    "skdinoad AnomalyDINO, one block": (our_one_block, "skdinoad"),
    "anomalib AnomalyDINO": (anomalib_anomaly_dino, "anomalib"),
    "anomalib SuperADD": (anomalib_super_add, "anomalib"),
    AUTHORS: (lambda options: Authors(options.clone, options.masking), "faiss"),
    "imgad knn": (lambda options: Imgad(), "imgad"),
    "skdinoad AnomalyDINO, CNN": (our_patch_core, "skdinoad"),
    "anomalib PatchCore, CNN": (anomalib_patch_core, "anomalib"),
    "skdinoad Dinomaly": (our_dinomaly, "skdinoad"),
    "skdinoad Dinomaly, float32": (our_dinomaly_float32, "skdinoad"),
    "anomalib Dinomaly": (anomalib_dinomaly, "anomalib"),
}

#: Our method and the corresponding peer.
PAIRS = [
    ("skdinoad AnomalyDINO", "anomalib AnomalyDINO"),
    ("skdinoad AnomalyDINO, one block", "anomalib AnomalyDINO"),
    ("skdinoad AnomalyDINO", "anomalib SuperADD"),
    ("skdinoad AnomalyDINO", AUTHORS),
    ("skdinoad AnomalyDINO", "imgad knn"),
    ("skdinoad AnomalyDINO, CNN", "anomalib PatchCore, CNN"),
    ("skdinoad Dinomaly", "anomalib Dinomaly"),
    ("skdinoad Dinomaly, float32", "anomalib Dinomaly"),
]
