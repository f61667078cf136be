"""Each loader, on a small folder in the layout of its data set."""

import json

import numpy as np
import pytest
from PIL import Image

from skdinoad import datasets


def image(path, bad=None):
    """Write an image of 8 x 6 pixels, or a mask if ``bad`` is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((6, 8), np.uint8)
    if bad:
        pixels[0, :bad] = 255
    Image.fromarray(pixels if bad is not None else np.stack([pixels] * 3, -1)).save(
        path
    )


def regions(data):
    """Return the number of anomalous pixels in each mask."""
    return [int(mask.sum()) for mask in data.masks]


@pytest.mark.parametrize("load", [datasets.load_mvtec_ad, datasets.load_mpdd])
def test_mvtec_layout(load, tmp_path):
    for name in ("train/good/0", "train/good/1", "test/good/0", "test/hole/0"):
        image(tmp_path / f"tube/{name}.png")
    image(tmp_path / "tube/ground_truth/hole/0_mask.png", bad=3)
    data = load(tmp_path, "tube")
    assert len(data.train) == 2
    assert data.y.tolist() == [1, -1]
    assert regions(data) == [0, 3]
    with pytest.raises(FileNotFoundError, match=r"there are \['tube'\]"):
        load(tmp_path, "bolt")


def test_mvtec_ad2(tmp_path):
    names = ("train/good/0", "validation/good/0", "test_public/good/0")
    for name in (*names, "test_public/bad/5", "test_private/7", "test_private_mixed/8"):
        image(tmp_path / f"can/{name}.png")
    image(tmp_path / "can/test_public/ground_truth/bad/5_mask.png", bad=2)
    data = datasets.load_mvtec_ad2(tmp_path, "can")
    assert [len(data[part]) for part in ("train", "validation", "test")] == [1, 1, 2]
    assert data.kinds.tolist() == ["good", "bad"]
    assert regions(data) == [0, 2]
    private = datasets.load_mvtec_ad2(tmp_path, "can", test="private_mixed")
    assert private.test[0].endswith("8.png")
    assert private.y is private.masks is None
    with pytest.raises(ValueError, match="private_mixed"):
        datasets.load_mvtec_ad2(tmp_path, "can", test="all")


def test_mvtec_loco_joins_regions(tmp_path):
    kinds = ("good", "logical_anomalies", "structural_anomalies")
    for name in ("train/good/0", "validation/good/0", *(f"test/{k}/0" for k in kinds)):
        image(tmp_path / f"bag/{name}.png")
    image(tmp_path / "bag/ground_truth/logical_anomalies/0/000.png", bad=2)
    image(tmp_path / "bag/ground_truth/logical_anomalies/0/001.png", bad=5)
    image(tmp_path / "bag/ground_truth/structural_anomalies/0/000.png", bad=1)
    data = datasets.load_mvtec_loco(tmp_path, "bag")
    assert data.kinds.tolist() == list(kinds)
    assert regions(data) == [0, 5, 1]
    assert len(data.validation) == 1


@pytest.fixture
def visa(tmp_path):
    for name in ("Normal/0", "Normal/1", "Anomaly/0", "Anomaly/1"):
        image(tmp_path / f"candle/Data/Images/{name}.JPG")
    for i in (0, 1):
        image(tmp_path / f"candle/Data/Masks/Anomaly/{i}.png", bad=4 + i)
    lines = ["object,split,label,image,mask"]
    lines += ["candle,train,normal,candle/Data/Images/Normal/0.JPG,"]
    lines += ["candle,test,normal,candle/Data/Images/Normal/1.JPG,"]
    for i, split in enumerate(("train", "test")):
        place = f"candle/Data/Images/Anomaly/{i}.JPG,candle/Data/Masks/Anomaly/{i}.png"
        lines += [f"candle,{split},anomaly,{place}"]
    lines += ["cashew,train,normal,cashew/Data/Images/Normal/0.JPG,"]
    (tmp_path / "split_csv").mkdir()
    (tmp_path / "split_csv/1cls.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_visa_follows_the_authors_list(visa):
    data = datasets.load_visa(visa, "candle")
    assert len(data.train) == 1  # without the anomalous one
    assert data.kinds.tolist() == ["good", "anomaly"]
    assert regions(data) == [0, 5]
    with pytest.raises(FileNotFoundError, match=r"2cls_fewshot\.csv is missing"):
        datasets.load_visa(visa, "candle", split="2cls_fewshot")
    (visa / "pcb1").mkdir()
    with pytest.raises(FileNotFoundError, match="lists no image of 'pcb1'"):
        datasets.load_visa(visa, "pcb1")


@pytest.mark.parametrize("suffix", ["bmp", "png"])
def test_btad_masks_may_have_another_format(tmp_path, suffix):
    for name in ("train/ok/0", "test/ok/0", "test/ko/0"):
        image(tmp_path / f"01/{name}.bmp")
    image(tmp_path / f"01/ground_truth/ko/0.{suffix}", bad=6)
    data = datasets.load_btad(tmp_path, "01")
    assert data.y.tolist() == [-1, 1]
    assert regions(data) == [6, 0]


def test_kolektor_keeps_a_commutator_on_one_side(tmp_path):
    for item in range(6):
        for part in range(4):
            image(tmp_path / f"kos{item:02d}/Part{part}.jpg")
            path = tmp_path / f"kos{item:02d}/Part{part}_label.bmp"
            image(path, bad=7 * (part == 3))
    data = datasets.load_kolektor_sdd(tmp_path)
    tested = {path.split("/")[-2] for path in data.test}
    assert len(tested) == 3
    assert not tested & set(data.groups)
    assert len(data.train) == 9  # three of four of each are good
    assert sorted(regions(data)) == [0] * 9 + [7] * 3
    assert (data.y == -1).sum() == 3
    (tmp_path / "kos00/Part0_label.bmp").unlink()
    with pytest.raises(FileNotFoundError, match=r"Part0_label\.bmp"):
        datasets.load_kolektor_sdd(tmp_path)


@pytest.mark.parametrize(
    "load",
    [
        datasets.load_mvtec_ad,
        datasets.load_mvtec_ad2,
        datasets.load_mvtec_loco,
        datasets.load_btad,
    ],
)
def test_empty_folders_are_explained(load, tmp_path):
    (tmp_path / "can").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no image"):
        load(tmp_path, "can")
    with pytest.raises(FileNotFoundError, match="never downloaded"):
        load(tmp_path / "nowhere", "can")


def test_no_image_of_kolektor(tmp_path):
    with pytest.raises(FileNotFoundError, match="kos01/Part0"):
        datasets.load_kolektor_sdd(tmp_path)


def test_every_loader_takes_names_as_people_write_them(tmp_path):
    """Hidden folders, GOOD in capitals, masks in subfolders, as in load_folder."""
    for name in ("train/GOOD/0", "test/GOOD/0", "test/.x/0", "test/ko/a/0"):
        image(tmp_path / f"one/{name}.png")
    image(tmp_path / "one/Ground_Truth/ko/a/0.png", bad=3)  # BTAD
    data = datasets.load_btad(tmp_path, "one")
    assert (data.kinds.tolist(), regions(data)) == (["good", "ko"], [0, 3])
    (tmp_path / "one/Ground_Truth/ko/a/0.png").unlink()
    image(tmp_path / "one/Ground_Truth/ko/a/0/0.png", bad=4)  # LOCO
    data = datasets.load_mvtec_loco(tmp_path, "one")
    assert (data.kinds.tolist(), regions(data)) == (["good", "ko"], [0, 4])
    for name in ("Train/Good/0", "Test_public/Good/1", "test_public/.x/0"):
        image(tmp_path / f"two/{name}.png")
    image(tmp_path / "two/test_public/bad/a/5.png")
    image(tmp_path / "two/test_public/Ground_truth/bad/a/5_mask.png", bad=2)
    data = datasets.load_mvtec_ad2(tmp_path, "two")
    assert (data.kinds.tolist(), regions(data)) == (["good", "bad"], [0, 2])


@pytest.mark.parametrize("load", [datasets.load_mvtec_loco, datasets.load_btad])
def test_images_in_no_folder_are_refused(load, tmp_path):
    for name in ("train/good/0", "test/good/0", "test/loose"):
        image(tmp_path / f"x/{name}.png")
    with pytest.raises(ValueError, match=r"loose\.png is in no folder"):
        load(tmp_path, "x")


def test_visa_reads_what_a_spreadsheet_has_saved(visa):
    listed = visa / "split_csv/1cls.csv"
    text = listed.read_text().replace("normal", "Normal")
    listed.write_text(text, encoding="utf-8-sig")
    data = datasets.load_visa(visa, "candle")
    assert len(data.train) == 1
    assert data.kinds.tolist() == ["good", "anomaly"]


def test_kolektor_does_not_take_hidden_files_for_images(tmp_path):
    for item in ("kos01", "kos02", "__MACOSX/kos01", ".trash/kos03"):
        image(tmp_path / item / "Part0.jpg")
        image(tmp_path / item / "Part0_label.bmp", bad=0)
    data = datasets.load_kolektor_sdd(tmp_path)
    assert len(data.train) == len(data.test) == 1
    image(tmp_path / "kos01/Part7_label.bmp", bad=2)
    with pytest.warns(UserWarning, match="belong to no image: 1 "):
        datasets.load_kolektor_sdd(tmp_path)


def test_mvtec_3d_reads_colour_alone(tmp_path):
    folder = tmp_path / "bagel"
    for part in ("train/good", "validation/good", "test/good", "test/hole"):
        image(folder / part / "rgb/000.png")
        image(folder / part / "xyz/000.png")  # .tiff in the data set
    image(folder / "test/good/gt/000.png", bad=0)
    image(folder / "test/hole/gt/000.png", bad=4)
    data = datasets.load_mvtec_3d(tmp_path, "bagel")
    assert [len(data[part]) for part in ("train", "validation", "test")] == [1, 1, 2]
    assert all("rgb" in path for path in [*data.train, *data.test])
    assert data.kinds.tolist() == ["good", "hole"]
    assert regions(data) == [0, 4]
    (tmp_path / "empty/train").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="train/good/rgb holds no image"):
        datasets.load_mvtec_3d(tmp_path, "empty")


def test_real_iad_follows_the_authors_lists(tmp_path):
    def row(path, kind="OK", mask=None):
        return {"anomaly_class": kind, "image_path": path, "mask_path": mask}

    good = [f"OK/S000{i}/tape_OK_C{c}.jpg" for i in (1, 2) for c in (1, 2)]
    bad, mask = "NG/QS/S0003/tape_QS_C1.jpg", "NG/QS/S0003/tape_QS_C1.png"
    for name in (*good, bad):
        image(tmp_path / "realiad_256/tape" / name)
    image(tmp_path / "realiad_256/tape" / mask, bad=2)
    known = {
        "meta": {"prefix": "tape/", "normal_class": "OK"},
        "train": [*(row(name) for name in good[:3]), row(bad, "QS", mask)],
        "test": [row(good[3]), row(bad, "QS", mask)],
    }
    listed = tmp_path / "realiad_jsons/realiad_jsons/tape.json"
    listed.parent.mkdir(parents=True)
    listed.write_text(json.dumps(known))
    data = datasets.load_real_iad(tmp_path, "tape", size=256)
    assert data.groups.tolist() == ["S0001", "S0001", "S0002"]
    assert data.kinds.tolist() == ["good", "QS"]
    assert data.y.tolist() == [1, -1]
    assert regions(data) == [0, 2]
    with pytest.raises(
        FileNotFoundError, match=r"realiad_jsons_sv.tape\.json is missing"
    ):
        datasets.load_real_iad(tmp_path, "tape", split="realiad_jsons_sv")
