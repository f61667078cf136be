"""Does a test fail when a protection is taken away? make check-mutations.

Each line of ``MUTATIONS`` takes one protection out of a copy of the tree, and runs the
tests that should miss it. It prints what each says, and fails if one says nothing, or
if the tests fail on the tree as it is.

    python tests/stress/mutations.py
    python tests/stress/mutations.py --only persistence
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from _common import print_table

ROOT = Path(__file__).parents[2]

#: File, what stands there, what would stand there without, and the tests that see it.
MUTATIONS = [
    # -- model files
    (
        "persistence/_archive.py",
        r'if head != _MAGIC + f"{FORMAT:04d}\n{digest}\n".encode():',
        "if False:",
        "tests/persistence/test_archive.py",
    ),
    (
        "persistence/_archive.py",
        " or min(shape, default=0) < 0 or start < 0:",
        ":",
        "tests/persistence/test_archive.py",
    ),
    (
        "persistence/_archive.py",
        "LookupError, RecursionError)",
        "LookupError)",
        "tests/persistence/test_archive.py",
    ),
    (
        "persistence/_graph.py",
        'return _found_name(data["name"])',
        'return _find(data["name"])',
        "tests/persistence/test_archive.py",
    ),
    (
        "persistence/_archive.py",
        "if sum(array.nbytes for array in arrays) > len(content):",
        "if False:",
        "tests/persistence/test_archive.py",
    ),
    (
        "persistence/_graph.py",
        'if module.split(".")[0] not in (_OURS, _THEIRS):',
        "if False:",
        "tests/persistence/test_graph.py",
    ),
    (
        "persistence/_graph.py",
        " or home not in (_OURS, _THEIRS):",
        ":",
        "tests/persistence/test_graph.py",
    ),
    (
        "persistence/_graph.py",
        "if not isclass(cls) or not _may_be_made(cls):",
        "if not isclass(cls):",
        "tests/persistence/test_graph.py",
    ),
    (
        "persistence/_dump.py",
        "            yield temporary\n",
        "            yield target\n",
        "tests/persistence/test_dump.py",
    ),
    (
        "persistence/_dump.py",
        "            temporary.unlink(missing_ok=True)\n    except",
        "            pass\n    except",
        "tests/persistence/test_dump.py",
    ),
    # -- features, weights, the hub
    (
        "features/_disk.py",
        "return found if array.endswith(key) else None",
        "return found",
        "tests/features/test_store.py",
    ),
    (
        "features/_disk.py",
        "if hashlib.sha256(array).hexdigest().encode() == digest:",
        "if True:",
        "tests/features/test_store.py",
    ),
    (
        "features/_disk.py",
        "np.load(io.BytesIO(array), allow_pickle=False)",
        "np.load(io.BytesIO(array), allow_pickle=True)",
        "tests/features/test_store.py",
    ),
    (
        "features/_disk.py",
        "            half.unlink(missing_ok=True)\n",
        "            pass\n",
        "tests/features/test_store.py",
    ),
    (
        "features/_disk.py",
        "if _OURS.fullmatch(x.name))",
        "if True)",
        "tests/features/test_disk.py",
    ),
    (
        "features/_disk.py",
        "if item.is_file(follow_symlinks=False):",
        "if True:",
        "tests/features/test_disk.py",
    ),
    (
        "features/_disk.py",
        "            self._evict(n)\n",
        "            pass\n",
        "tests/features/test_disk.py",
    ),
    (
        "features/_hub.py",
        "return None if offline() else _from_download(repository)",
        "return _from_download(repository)",
        "tests/features/test_hub.py",
    ),
    (
        "features/_hub.py",
        "        if found != name:",
        "        if False:",
        "tests/features/test_hub.py",
    ),
    (
        "features/_state.py",
        'torch.load(path, map_location="cpu", weights_only=True)',
        'torch.load(path, map_location="cpu", weights_only=False)',
        "tests/detectors/test_checkpoints.py",
    ),
    (
        "features/_extractor.py",
        "if backbone.digest != self.weights_digest_:",
        "if False:",
        "tests/persistence/test_dump.py",
    ),
    # -- images and fits
    (
        "_inputs/files.py",
        "image.width * image.height > most:",
        "False:",
        "tests/_inputs/test_files.py",
    ),
    (
        "_inputs/estimators.py",
        "        except BaseException:\n            self._reset()\n",
        "        except BaseException:\n",
        "tests/test_base.py tests/test_testing.py tests/test_monitoring.py",
    ),
    # -- thresholds and review
    (
        "_arrays/thresholds.py",
        '    if np.isnan(threshold):\n        raise ValueError(f"{name} is NaN',
        '    if False:\n        raise ValueError(f"{name} is NaN',
        "tests/model_selection/test_tuner.py -k no_number",
    ),
    (
        "model_selection/_tuner.py",
        "float(max(offset, np.nextafter(highest, np.inf)))",
        "float(np.nextafter(highest, np.inf))",
        "tests/model_selection/test_tuner.py -k rare",
    ),
    (
        "results.py",
        "bool(score < rule.review_threshold)",
        "bool(score <= rule.review_threshold)",
        "tests/cli/test_batch.py",
    ),
    (
        "cli/_learn.py",
        "    _check_targets(options)\n",
        "",
        "tests/cli/test_learn.py",
    ),
    (
        "cli/_learn.py",
        "        del judging.review_offset_\n",
        "        pass\n",
        "tests/cli/test_learn.py",
    ),
    # -- the CSV file, the report, the server, the monitor
    (
        "cli/_batch.py",
        r'whole = text[: text.rfind(b"\n") + 1]',
        "whole = text",
        "tests/cli/test_batch.py -k killed",
    ),
    (
        "cli/_batch.py",
        "        if others:\n",
        "        if False:\n",
        "tests/cli/test_batch.py -k another",
    ),
    (
        "cli/_batch.py",
        "    _check_header(options.csv, whole, columns)\n",
        "",
        "tests/cli/test_batch.py -k mixed",
    ),
    (
        "cli/_batch.py",
        "for row in before if options.resume else ():",
        "for row in ():",
        "tests/cli/test_batch.py -k gate",
    ),
    (
        "cli/_batch.py",
        "        clear_memory()",
        "        pass",
        "tests/cli/test_batch.py -k kept",
    ),
    (
        "report.py",
        r'.replace("</", "<\\/")',
        "",
        "tests/test_report.py -k markup",
    ),
    (
        "serve/_app.py",
        "if self.inside >= self._queue:",
        "if False:",
        "tests/serve/test_app.py -k room",
    ),
    (
        "serve/_app.py",
        "        if len(body) > most:",
        "        if len(body) > 9 * most:",
        "tests/serve/test_app.py -k long_body",
    ),
    (
        "serve/_line.py",
        "return path == upload.path",
        "return True",
        "tests/serve/test_line.py",
    ),
    (
        "monitoring.py",
        "np.random.default_rng([self._seed, self.n_seen_])",
        "np.random.default_rng()",
        "tests/test_monitoring.py -k file",
    ),
    # -- what fuzzing has found
    (
        "datasets/_defects.py",
        'Interval(Real, 0, None, closed="neither").is_satisfied_by(size)',
        "size > 0",
        "tests/datasets/test_defects.py",
    ),
    (
        "model_selection/_suggest.py",
        "    if not tried:\n",
        "    if False:\n",
        "tests/model_selection/test_suggest.py -k setting",
    ),
    (
        "model_selection/_classifier.py",
        "not np.isscalar(normal) or ",
        "",
        "tests/model_selection/test_classifier.py -k label",
    ),
]


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--only", default="", help="files whose name holds this")
    only = options.parse_args().only
    chosen = [mutation for mutation in MUTATIONS if only in mutation[0]]
    with tempfile.TemporaryDirectory() as folder:
        tree = copied(Path(folder))
        for tests in sorted({tests for *_, tests in chosen}):
            if run(tree, tests):
                sys.exit(f"{tests} fails on the tree as it is.")
        rows = [[name, old, told(tree, name, old, *x)] for name, old, *x in chosen]
    print_table(["file", "taken away", "a test"], rows)
    silent = sum(row[-1] != "fails" for row in rows)
    print(f"\n{len(rows) - silent} of {len(rows)} found by a test")
    sys.exit(silent > 0)


def copied(folder):
    """Return a copy of what tests look at."""
    for name in ("skdinoad", "tests", "doc"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)
    return folder


def told(tree, name, old, new, tests):
    """Return what tests say of a tree without a protection, and put it back."""
    path = tree / "skdinoad" / name
    text = path.read_text()
    if text.count(old) != 1:
        sys.exit(f"{name} holds {old!r} {text.count(old)} times, expected once.")
    path.write_text(text.replace(old, new))
    compile(path.read_text(), name, "exec")  # what is no Python would fail every test
    try:
        said = {0: "SAYS NOTHING", 1: "fails"}.get(run(tree, tests), "does not run")
    finally:
        path.write_text(text)
    print(name, repr(old), said, file=sys.stderr, flush=True)
    return said


def run(tree, tests):
    """Return the exit status of pytest: 0 all pass, 1 one fails."""
    command = [
        sys.executable,
        "-B",
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
    ]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(
        [*command, *tests.split()], cwd=tree, env=environment, capture_output=True
    )
    return done.returncode


if __name__ == "__main__":
    main()
