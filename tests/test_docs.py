"""README and docs: code blocks run, links lead somewhere, reference pages are those of the code."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def _blocks(language):
    found = [(page, text) for page in PAGES for name, text in BLOCK.findall(page.read_text()) if name == language]
    return [pytest.param(text, id=f"{page.name}-{at}") for at, (page, text) in enumerate(found)]


def _commands():
    lines = [
        line.split("#")[0].strip()
        for page in PAGES
        for _, text in BLOCK.findall(page.read_text())
        for line in text.splitlines()
    ]
    return sorted({line for line in lines if re.match(r"(raysys|make|pytest) ", line)})


@pytest.mark.parametrize("text", _blocks("yaml"))
def test_yaml_blocks_are_yaml(text):
    assert yaml.safe_load(text)


@pytest.mark.parametrize("text", _blocks("python"))
def test_python_blocks_compile(text):
    assert compile(text, "block", "exec")


@pytest.mark.parametrize("line", _commands())
def test_commands_exist_with_their_options(line, command):
    words = line.split()
    if words[0] == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets)
        return
    if words[0] == "pytest":
        assert "raysys.contracts" in words
        return
    verbs = words[1:3] if words[1] in ("runs", "data", "keys", "users") else words[1:2]
    code, out, err = command(*verbs, "--help")
    assert code == 0, err
    shown = re.sub(r"\s+", " ", out)
    for option in (word for word in words if word.startswith("-")):
        assert option.split("=")[0] in shown, f"{' '.join(verbs)} has no {option}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), f"{page.name} links to {target}"


def test_reference_pages_are_up_to_date():
    done = subprocess.run([sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
