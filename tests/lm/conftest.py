import pytest

from ppl.lm import load
from tests.lm.toys import write_toy_folder


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    """A toy model, loaded from its folder."""
    folder = tmp_path_factory.mktemp("lm") / "toy"
    write_toy_folder(folder)
    return load(folder)
