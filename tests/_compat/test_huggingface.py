import huggingface_hub
import pytest

from skdinoad._compat.huggingface import download


@pytest.fixture
def pieces(monkeypatch):
    """Replace the download; it records the chunk size while it runs."""
    sizes = []

    def fetch(repository, file, tqdm_class):
        sizes.append(huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE)
        with tqdm_class(total=9, disable=True) as bar:
            for n in (4, -4, 9):
                bar.update(n)
        return f"{repository}/{file}"

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    return sizes


def test_every_piece_is_told_and_pieces_are_small(pieces):
    before, told = huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE, []
    assert str(download("a", "b", told.append)).endswith("b")
    assert told == [4, -4, 9]
    assert pieces == [2**16]
    assert before == huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE


def test_what_is_told_may_end_the_download(pieces):
    before = huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE
    with pytest.raises(ZeroDivisionError):
        download("a", "b", lambda n: 1 / 0)
    assert before == huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE


def test_the_hub_takes_what_we_pass():
    import inspect

    assert "tqdm_class" in inspect.signature(huggingface_hub.hf_hub_download).parameters
