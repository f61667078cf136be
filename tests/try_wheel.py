"""What a new user does first, with nothing but the wheel: make test-wheel."""

import subprocess
from pathlib import Path

from PIL import Image

import skdinoad
from skdinoad.datasets import make_screws


def main():
    assert "site-packages" in skdinoad.__file__, skdinoad.__file__
    assert Path(skdinoad.__file__).with_name("py.typed").is_file()
    good, _ = make_screws(14, size=224)
    bad, _ = make_screws(2, defect="second_washer", size=224, random_state=1)
    for folder, images in (("good", good[:12]), ("new", [*good[12:], *bad])):
        Path(folder).mkdir(exist_ok=True)
        for i, image in enumerate(images):
            Image.fromarray(image).save(f"{folder}/{i}.png")
    run("fit", "good", "-o", "m.skd", "--method", "dinopatch", "--align", "pca")
    run("score", "m.skd", "new", "--report", "r.html")
    assert "new/2.png" in Path("r.html").read_text()
    run("inspect", "m.skd")


def run(*words):
    print("$ skdinoad", *words, flush=True)
    subprocess.run(["venv/bin/skdinoad", *words], check=True)


if __name__ == "__main__":
    main()
