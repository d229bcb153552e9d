"""The wheel is built from the checkout, unpacked elsewhere, and used from there."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODELS = sorted(config.parent for config in (ROOT / "models").glob("*/config.json"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with what the wheel installs."""
    built, site = tmp_path_factory.mktemp("built"), tmp_path_factory.mktemp("site")
    # No isolation: hatchling is installed, and a test needs no network.
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(built), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = built.glob("ppl_inference-*-py3-none-any.whl")
    zipfile.ZipFile(wheel).extractall(site)
    return site


def outside(site, code):
    """Runs code that sees the wheel and not the checkout; returns what it prints."""
    environment = os.environ | {"PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=site)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_wheel_holds_the_package_its_data_and_the_models(site):
    held = {str(file.relative_to(site)) for file in site.rglob("*") if file.is_file()}
    package = {f"ppl/{name}" for name in files(ROOT / "ppl")}
    models = {f"ppl/_models/{m.name}/{name}" for m in MODELS for name in files(m) if not name.endswith(".py")}
    assert {name for name in held if name.startswith("ppl/")} == package | models
    notes = {name.split("/")[-1] for name in held if ".dist-info/licenses/" in name}
    assert notes == {"LICENSE", "NOTICE"}
    assert not [name for name in held if not name.startswith(("ppl/", "ppl_inference-"))]


def test_the_wheel_imports_from_outside_the_checkout(site):
    code = (
        "import pkgutil, ppl\n"
        "for module in pkgutil.walk_packages(ppl.__path__, 'ppl.'):\n"
        "    print(__import__(module.name, fromlist=['x']).__file__)\n"
    )
    loaded = outside(site, code)
    assert len(loaded) >= 7
    assert [file for file in loaded if not file.startswith(str(site))] == []


def test_the_bundled_models_are_found_in_the_wheel(site):
    code = "from ppl.lm import bundled_models\nfor name, folder in bundled_models().items(): print(name, folder)"
    found = outside(site, code)
    assert found[::2] == [model.name for model in MODELS]
    assert found[1::2] == [str(site / "ppl" / "_models" / model.name) for model in MODELS]


def test_the_command_is_declared(site):
    (entry_points,) = site.glob("*.dist-info/entry_points.txt")
    assert entry_points.read_text() == "[console_scripts]\nppl = ppl.cli:main\n"


def files(folder):
    """Paths below the folder, without what Python or an editor leaves there."""
    found = (file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    return {str(file.relative_to(folder)) for file in found}
