"""pyproject.toml, the constraints and the imports tell the same story."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DECLARED = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
CONSTRAINTS = sorted((ROOT / "constraints").glob("py*.txt"))
# Never imported by us: what loads them looks them up by name.
LOADED_BY_OTHERS = {"funsor", "h5netcdf", "h5py"}


def imported(source):
    """Top-level names of the modules that a source file imports, those imported by name included."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name.split(".")[0] for alias in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module.split(".")[0]
            # A computed name is that of a part of ppl.
            case ast.Call(func=ast.Name(id="import_module"), args=[ast.Constant(value=module)]):
                yield module.split(".")[0]


def test_the_package_depends_on_what_it_imports_and_on_nothing_else():
    names = {name for file in (ROOT / "ppl").rglob("*.py") for name in imported(file.read_text(encoding="utf-8"))}
    names -= {"ppl", *sys.stdlib_module_names}
    providers = metadata.packages_distributions()
    used = {canonicalize_name(distribution) for name in names for distribution in providers[name]}
    assert used | LOADED_BY_OTHERS == DECLARED


def test_each_supported_python_has_its_constraints():
    lines = {line.rsplit(" ", 1)[1] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)}
    assert {f"py{line.replace('.', '')}" for line in lines} == {file.stem for file in CONSTRAINTS}
    assert f"py{sys.version_info.major}{sys.version_info.minor}" in {file.stem for file in CONSTRAINTS}


@pytest.mark.parametrize("file", CONSTRAINTS, ids=lambda file: file.stem)
def test_constraints_pin_everything_and_name_no_host(file):
    lines = file.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+_]+", line)] == []
    pinned = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines}
    extras = [line for group in PROJECT["optional-dependencies"].values() for line in group]
    for requirement in map(Requirement, PROJECT["dependencies"] + extras):
        assert pinned[canonicalize_name(requirement.name)] in requirement.specifier


def test_make_alone_lists_every_target():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    done = subprocess.run(["make", "--no-print-directory", "-C", str(ROOT)], capture_output=True, text=True, check=True)
    listed = [line.split()[1] for line in done.stdout.splitlines()]
    assert sorted(listed) == sorted(phony.split())


def test_the_type_information_is_marked():
    assert (ROOT / "ppl" / "py.typed").is_file()


def test_inference_brings_nothing_that_only_tables_and_plots_want():
    # Cold starts are measured beside NumPyro's; each of these takes a third of a second or more.
    code = "import sys, ppl.inference; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"arviz", "matplotlib", "pandas", "scipy.stats", "xarray"} & set(done.stdout.split())
