"""Every code block of the documentation and of the README runs, every example runs, every part has its API page."""

import pkgutil
import re
import runpy
from pathlib import Path

import pytest

import ppl

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
EXAMPLES = sorted((ROOT / "examples").rglob("*.py"))
# What they run takes longer than to compile it.
LONG = ("dynamic_sampling_kazdan2025.py", "clt_evals_bowyer2025.py", "privacy_zanella2022.py")
LONG += ("sbc.md", "risk-privacy.md")
# Examples whose defaults are what a reader wants to see are run smaller.
SMALL = {
    "particle_filtering_puri2025.py": ["--problems", "3", "--budget", "4"],
    "saber_feng2026.py": ["--repeats", "3"],
    "simplex_judges2025.py": ["--repeats", "2"],
    "stand_song2025.py": ["--prompts", "2", "--samples", "2"],
    "tree_of_thoughts_yao2023.py": ["--problems", "3", "--budget", "4"],
}
BLOCK = re.compile(r"^```python[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def cases(paths):
    return [pytest.param(path, id=path.name, marks=[pytest.mark.runs_long] * (path.name in LONG)) for path in paths]


def blocks(page):
    """The page's Python, each block moved to its own line numbers, so that a failure points into the page."""
    text = page.read_text(encoding="utf-8")
    return ["\n" * text[: match.start(1)].count("\n") + match.group(1) for match in BLOCK.finditer(text)]


@pytest.mark.parametrize("page", cases(page for page in PAGES if blocks(page)))
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for block in blocks(page):  # in order and in one namespace, as a reader would type them
        exec(compile(block, str(page), "exec"), namespace)


@pytest.mark.parametrize("script", cases(EXAMPLES))
def test_an_example_runs(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(script), *SMALL.get(script.name, [])])
    runpy.run_path(str(script), run_name="__main__")


def test_code_blocks_are_found():
    text = "a\n```python\nx = 1\n```\nb\n```text\nno\n```\n```python\ny = x\n```\n"
    assert [match.group(1) for match in BLOCK.finditer(text)] == ["x = 1\n", "y = x\n"]


def test_every_part_has_its_api_page():
    shown = set()
    for page in (ROOT / "docs" / "api").glob("*.md"):
        shown |= set(re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE))
    assert shown == {f"ppl.{module.name}" for module in pkgutil.iter_modules(ppl.__path__)}


def test_every_page_is_in_the_navigation():
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r": (\S+\.md)$", config, re.MULTILINE))
    assert listed == {str(page.relative_to(ROOT / "docs")) for page in PAGES if page.name != "README.md"}


def test_links_of_the_readme_lead_somewhere():
    # The strict build checks those of the pages; it does not see the README.
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
