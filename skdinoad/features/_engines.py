"""Other engines than torch's own for the forward pass of a Vision Transformer.

An engine takes torch's pixels and gives tokens as ``torch`` does. Each is compiled for
one size of input, compared with torch on the first images it sees, and kept in the
process.
"""

import copy
import importlib
import time
import warnings
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from skdinoad._compat.torch import isolated_torch_state
from skdinoad.features._blocks import block_tokens

__all__ = [
    "ENGINES",
    "ON_CPU",
    "check_installed",
    "choose",
    "clear_engines",
    "difference",
    "engine_tokens",
]

_ONNX = ("onnx", "onnxscript")

#: What each engine needs besides torch; the extra has the first one's name.
_NEEDS = {
    "torch": (),
    "compile": (),
    "onnxruntime": ("onnxruntime", *_ONNX),
    "onnxruntime-int8": ("onnxruntime", *_ONNX),
    "openvino": ("openvino", *_ONNX),
}

ENGINES = tuple(_NEEDS)

#: Those that compute in float32 on the CPU, wherever torch computes.
ON_CPU = tuple(name for name, needs in _NEEDS.items() if needs)

#: What "auto" tries: int8 changes scores, "compile" takes long.
_CANDIDATES = ("torch", "onnxruntime", "openvino")

#: What it has found fastest.
_FASTEST = {}

#: How far tokens may lie from torch's, as ``difference`` counts.
_EXACT, _INT8 = 1e-3, 0.15

#: Images that a newly compiled engine is compared on.
_COMPARED = 4


# -- agreement ------------------------------------------------------------------------


def difference(found, expected) -> float:
    """Return how far tokens lie from those expected.

    Parameters
    ----------
    found, expected : ndarray of shape (t, l, c)
        Tokens of l layers.

    Returns
    -------
    difference : float
        Root mean square distance between the two, as a share of that between the
        expected tokens and their mean; of the layer where it is largest. Distances
        between patches are what detectors score, so a cosine, which one large channel
        that all patches have keeps near 1, would say too little.
    """
    found, expected = (np.asarray(x, np.float64) for x in (found, expected))
    moved = ((found - expected) ** 2).sum((0, 2))
    spread = ((expected - expected.mean(0)) ** 2).sum((0, 2))
    alike = 1e-6 * (expected**2).sum((0, 2)) + 1e-12  # what rounding must not reach
    return float(np.sqrt((moved / np.maximum(spread, alike)).max()))


def check_close(engine, found, expected):
    """Refuse an engine whose tokens lie too far from torch's.

    Raises
    ------
    ValueError
        With the figure and the bound.
    """
    bound = _INT8 if engine.endswith("int8") else _EXACT
    figure = difference(found, expected)
    if not figure <= bound:  # NaN is no agreement
        raise ValueError(
            f"engine={engine!r} moves features by {figure:.2g} of how far patches lie "
            f"from their mean, on images given here, and {bound} is allowed: pass "
            "engine='torch', or another, and fit again."
        )


# -- choice ---------------------------------------------------------------------------


def choose(engine, tokens_by, key) -> str:
    """Return the engine to take, one of those that agree with torch.

    Parameters
    ----------
    engine : str
        One of ``ENGINES``, or "auto": the fastest of ``_CANDIDATES``.
    tokens_by : callable
        Name of an engine -> tokens (t, l, c) of the images to compare.
    key : hashable
        What is timed: it is so once in the process, and all folds of a search get the
        same engine, and so the same features from the store.

    Raises
    ------
    ValueError
        If an engine that is named does not agree with torch.
    """
    expected = tokens_by("torch")
    if engine not in ("auto", "torch"):
        check_close(engine, tokens_by(engine), expected)
        return engine
    key = (key, torch.get_num_threads())
    if key not in _FASTEST:
        able = [name for name in _CANDIDATES if _agrees(name, tokens_by, expected)]
        times = {name: _seconds(lambda n=name: tokens_by(n)) for name in able}
        _FASTEST[key] = min(times, key=times.get)
    fastest = _FASTEST[key]
    return fastest if _agrees(fastest, tokens_by, expected) else "torch"


def _agrees(engine, tokens_by, expected):
    if engine == "torch":
        return True
    try:
        check_close(engine, tokens_by(engine), expected)
    except (ImportError, ValueError):
        return False
    return True


def _seconds(call, repeats=3):
    """Return how long a call takes, the shortest of several."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


# -- compiled engines -----------------------------------------------------------------


def check_installed(engine):
    """Import what an engine needs.

    Raises
    ------
    ImportError
        Naming the package that is missing and the extra that brings it.
    """
    for package in _NEEDS[engine]:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ImportError(
                f"engine={engine!r} needs {package}: pip install "
                f"'skdinoad[{_NEEDS[engine][0]}]', or fit with engine='torch'."
            ) from error


def engine_tokens(engine, backbone, x, layers, norm):
    """Return the tokens of images as an engine computes them.

    Parameters
    ----------
    engine : str
        One of ``ENGINES`` but "torch".
    backbone : Backbone
    x, layers, norm
        As in :func:`block_tokens`.

    Returns
    -------
    tokens : Tensor of shape (n, p + h * w, l, c)
        As :func:`stacked_tokens` gives torch's.

    Raises
    ------
    ImportError
        If a package is missing.
    ValueError
        If the network cannot be compiled, or the engine does not agree with torch.
    """
    size, threads = tuple(x.shape[2:]), torch.get_num_threads()
    return _engine(engine, backbone, layers, norm, size, threads)(x)


@lru_cache(maxsize=8)
@isolated_torch_state()
def _engine(engine, backbone, layers, norm, size, threads):
    check_installed(engine)
    network = _Tokens(backbone.network, layers, norm)
    try:
        run = _COMPILE[engine](threads, backbone, layers, norm, size)
    except Exception as error:  # each engine and version has its own
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"engine={engine!r} cannot compile this network for images of {size} "
            f"pixels: pass engine='torch' and fit again ({reason:.300})."
        ) from error
    return _Compared(engine, run, network)


def clear_engines():
    """Forget all engines that this process has compiled."""
    _engine.cache_clear()
    _exported.cache_clear()
    _FASTEST.clear()


class _Tokens(torch.nn.Module):
    """What an engine compiles: pixels in, tokens out."""

    def __init__(self, network, layers, norm):
        super().__init__()
        self.network, self.layers, self.norm = network, layers, norm

    def forward(self, x):
        # As stacked_tokens, in operations that compilers join.
        found = block_tokens(self.network, x, self.layers, self.norm)
        layers = [torch.cat([p, grid.flatten(2).mT], 1) for p, grid in found]
        return torch.stack(layers, 2)


class _Compared:
    """An engine that answers once it has agreed with torch, on the first images.

    ``fit`` compares on images of its own too. Here it is about what comes later: a
    size of images that ``fit`` has not seen, a machine where int8 is another.
    """

    def __init__(self, engine, run, network):
        self.engine, self.run, self.network = engine, run, network
        self.agreed = False

    def __call__(self, x):
        tokens = self.run(x)
        if not self.agreed:
            few = tokens[:_COMPARED], self.network(x[:_COMPARED])
            check_close(self.engine, *(_by_layer(part) for part in few))
            self.agreed = True
        return tokens


def _by_layer(tokens):
    return tokens.flatten(0, 1).float().cpu().numpy()


def _compile(_, backbone, layers, norm, size):
    compiled = torch.compile(_Tokens(backbone.network, layers, norm))
    weight = next(backbone.network.parameters())
    with torch.inference_mode():
        compiled(weight.new_zeros(2, 3, *size))  # or its errors come later
    return compiled


def _onnxruntime(threads, *parts):
    return _session(_exported(*parts), threads)


def _int8(threads, *parts):
    from onnx import load_from_string
    from onnxruntime.quantization import quantize_dynamic
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    model = load_from_string(_exported(*parts))
    add_pre_process_metadata(model)  # torch's exporter did it; or else a warning
    with TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_dynamic(model, path, per_channel=True)
        return _session(path.read_bytes(), threads)


def _session(model, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(
        model, options, providers=["CPUExecutionProvider"]
    )
    (name,) = [part.name for part in session.get_inputs()]
    return lambda x: torch.from_numpy(session.run(None, {name: x.cpu().numpy()})[0])


def _openvino(threads, *parts):
    import openvino

    how = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    core = openvino.Core()
    model = core.read_model(_exported(*parts))  # convert_model would report its use
    compiled = core.compile_model(model, "CPU", how)

    def run(x):
        request = compiled.create_infer_request()  # threads cannot share one
        return torch.from_numpy(request.infer({0: x.cpu().numpy()})[0].copy())

    return run


_COMPILE = {
    "compile": _compile,
    "onnxruntime": _onnxruntime,
    "onnxruntime-int8": _int8,
    "openvino": _openvino,
}


@lru_cache(maxsize=1)  # what is to be compared is compiled one after the other
def _exported(backbone, layers, norm, size) -> bytes:
    """Return a network as an ONNX file for any number of images of one size."""
    images = torch.zeros(2, 3, *size)
    batch = torch.export.Dim("batch", min=1, max=2**16)
    with warnings.catch_warnings():  # torch's of torch, once for each network
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _Tokens(_of_size(backbone.network, size), layers, norm),
            (images,),
            dynamo=True,
            dynamic_shapes={"x": {0: batch}},
            verbose=False,
        )
    return program.model_proto.SerializeToString()


def _of_size(network, size):
    """Return a copy, on the CPU, with the position embeddings of one size of images.

    Or each engine would resize them in its own way: OpenVINO without antialiasing.
    """
    network = copy.deepcopy(network).cpu()
    if hasattr(network, "set_input_size"):
        network.set_input_size(img_size=size)
    return network
