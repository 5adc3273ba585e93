"""What the tests share: a cache of their own, a small synthetic set, and the real samples where they lie."""

from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """The tests' own cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("LEUKEMIA_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory) -> Path:
    """A synthetic C-NMC set of 120 images."""
    from leukemia.data.demo import write_demo

    return write_demo(tmp_path_factory.mktemp("demo") / "C-NMC_Leukemia", images=120, seed=0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real cells and weights beside the checkout."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("../shared is not there")
    return folder
