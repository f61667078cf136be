"""The command ``skdinoad``: parse arguments, call the public API, print results."""

import argparse
import re
import sys
import warnings
from difflib import get_close_matches
from pathlib import Path

__all__ = ["main"]

#: Values of ``--method`` and their classes.
METHODS = {
    "anomalydino": "AnomalyDINO",
    "dinopatch": "DinoPatch",
    "subspacead": "SubspaceAD",
    "dinomaly": "Dinomaly",
    "dfr": "DFR",
    "dmad": "DMAD",
}

_EXIT = (
    "exit status: 0 success, 1 defects found (with --gate), 2 usage or input error, 3 "
    "no defects, but images to review (with --gate)"
)


def main(arguments=None) -> int:
    """Run the command; return its exit status."""
    options, unknown = _parser().parse_known_args(arguments)
    if unknown:
        _refuse(options.parser, unknown)
    usual, warnings.formatwarning = warnings.formatwarning, _said
    try:
        return options.run(options)
    except (OSError, ValueError, TypeError, RuntimeError, ImportError) as error:
        print(f"skdinoad {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    finally:
        warnings.formatwarning = usual


def _refuse(parser, unknown):
    """Report unknown arguments and suggest a similar option."""
    known = re.findall(r"--[a-z-]+", parser.format_usage())
    options = [word for word in unknown if word.startswith("-")] or unknown
    like = get_close_matches(options[0].split("=")[0], known, n=1)
    hint = f"; did you mean {like[0]}?" if like else ""
    parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")


def _said(message, *where, **how):
    """Format a warning as one line, without Python source."""
    return f"skdinoad: {message}\n"


def _parser():
    parser = argparse.ArgumentParser(
        prog="skdinoad",
        description="Find defects in photographs, learning from good ones alone.",
        epilog=_EXIT,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_fit, _score, _serve, _tune, _compare, _inspect, _weights, _cache):
        add(commands)
    return parser


def _command(commands, name, text, run):
    """Add a subcommand; its module is imported only when it runs."""
    out = commands.add_parser(name, help=text, description=text, epilog=_EXIT)
    out.set_defaults(run=run, parser=out)
    return out


def _fit(commands):
    out = _command(commands, "fit", "Learn from a folder of good images.", _run_fit)
    out.add_argument("folder", type=Path, help="good images, or MVTec AD's layout")
    out.add_argument("-o", "--output", type=Path, required=True, help="model file")
    out.add_argument("--method", choices=METHODS, default="anomalydino")
    out.add_argument(
        "--align",
        choices=["none", "pca", "affine"],
        default="none",
        help="align parts to a common pose first (default: none)",
    )
    out.add_argument("--size", type=int, help="smaller edge of the network's input")
    out.add_argument(
        "--roi", type=Path, help="mask image: score only where it is white"
    )
    out.add_argument(
        "--target-fpr",
        type=_share,
        help="largest share of good images flagged, guaranteed by cross-validation",
    )
    out.add_argument(
        "--target-review-rate",
        type=_share,
        help="with --target-fpr: share of good images that may be flagged or reviewed",
    )
    out.add_argument(
        "--review",
        type=Path,
        help="HTML page of all training images with heat maps, most anomalous first",
    )
    out.add_argument("--json", action="store_true", help="print JSON")


def _score(commands):
    out = _command(commands, "score", "Score images with a model.", _run_score)
    out.add_argument("model", type=Path)
    out.add_argument(
        "paths",
        nargs="*",
        help="files, folders, patterns like 'new/*.png'; @list.txt reads paths from a "
        "file, - from standard input",
    )
    out.add_argument("--csv", type=Path, help="CSV file with a row for each image")
    out.add_argument(
        "--resume",
        action="store_true",
        help="with --csv: append and skip images that already have a row (as --watch)",
    )
    out.add_argument("--maps", type=Path, help="folder for heat map images")
    out.add_argument("--regions", type=Path, help="JSON file of boxes around defects")
    out.add_argument("--report", type=Path, help="HTML report")
    out.add_argument("--json", action="store_true", help="print a JSON object per line")
    out.add_argument("--gate", action="store_true", help="exit with 1 on any defect")
    out.add_argument(
        "--strict", action="store_true", help="stop at the first unreadable image"
    )
    out.add_argument("--watch", type=Path, help="folder: score files as they arrive")
    out.add_argument(
        "--idle",
        type=float,
        help="with --watch: stop after this many seconds without a new file",
    )


def _serve(commands):
    out = _command(commands, "serve", "Score images sent over HTTP.", _run_serve)
    out.add_argument("model", type=Path)
    out.add_argument(
        "--good",
        type=Path,
        help="good images for drift monitoring",
    )
    out.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)"
    )
    out.add_argument(
        "--port", type=int, default=8000, help="0 = any free port (default: 8000)"
    )
    out.add_argument(
        "--queue",
        type=_positive,
        default=64,
        help="maximum number of pending images (default: 64)",
    )
    out.add_argument(
        "--max-bytes",
        type=_positive,
        default=2**25,
        help="maximum size of an image file (default: 33554432)",
    )


def _positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected 1 or more")
    return number


def _share(text):
    number = float(text)
    if not 0 < number < 1:  # NaN is not
        raise argparse.ArgumentTypeError(
            f"{text}: expected a share between 0 and 1, such as 0.02 for 2 %"
        )
    return number


def _tune(commands):
    out = _command(commands, "tune", "Choose a model's threshold again.", _run_tune)
    out.add_argument("model", type=Path)
    out.add_argument(
        "--good", type=Path, required=True, help="good images not used for training"
    )
    out.add_argument("--bad", type=Path, help="defective images: choose the best F1")
    out.add_argument(
        "--target-fpr",
        type=_share,
        help="share of good images that may be flagged (default: 0.05); with --bad "
        "only together with --target-fnr",
    )
    review = out.add_mutually_exclusive_group()
    review.add_argument(
        "--target-review-rate",
        type=_share,
        help="share of good images that may be flagged or reviewed",
    )
    review.add_argument(
        "--target-fnr",
        type=_share,
        help="with --bad: share of defective images that may be accepted",
    )
    out.add_argument("-o", "--output", type=Path, help="output file (default: MODEL)")


def _compare(commands):
    text = "Compare methods on good images with planted defects."
    out = _command(commands, "compare", text, _run_compare)
    out.add_argument("folder", type=Path, help="good images, or MVTec AD's layout")
    default = ["anomalydino", "dinopatch", "subspacead"]
    out.add_argument("--methods", nargs="+", choices=METHODS, default=default)
    out.add_argument(
        "--defect-size",
        type=float,
        default=0.1,
        help="size of planted defects, as a share of the images' shorter edge "
        "(default: 0.1)",
    )
    out.add_argument("--json", action="store_true", help="print JSON")


def _inspect(commands):
    out = _command(commands, "inspect", "Show a model's settings.", _run_inspect)
    out.add_argument("model", type=Path)
    out.add_argument("--json", action="store_true", help="print JSON")


def _weights(commands):
    text = "Show which pretrained weights are found."
    out = _command(commands, "weights", text, _run_weights)
    out.add_argument("--fetch", action="store_true", help="use the model hub")


def _cache(commands):
    text = "Show or delete the features cached in a folder."
    out = _command(commands, "cache", text, _run_cache)
    out.add_argument("folder", type=Path, help="folder passed as cache=")
    what = out.add_mutually_exclusive_group()
    what.add_argument(
        "--check", action="store_true", help="read all files and list damaged ones"
    )
    what.add_argument("--clear", action="store_true", help="delete all cached features")
    out.add_argument("--json", action="store_true", help="print JSON")


def _run_fit(options):
    from skdinoad.cli._learn import fit

    return fit(options)


def _run_score(options):
    from skdinoad.cli._batch import score

    return score(options)


def _run_serve(options):
    from skdinoad.cli._http import serve

    return serve(options)


def _run_tune(options):
    from skdinoad.cli._learn import tune

    return tune(options)


def _run_compare(options):
    from skdinoad.cli._learn import compare

    return compare(options)


def _run_inspect(options):
    from skdinoad.cli._describe import inspect

    return inspect(options)


def _run_weights(options):
    from skdinoad.cli._describe import weights

    return weights(options)


def _run_cache(options):
    from skdinoad.cli._features import cache

    return cache(options)
