"""The code of the library's pages and of the README's section on it runs as written."""

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


def code_of(text):
    return re.findall(r"```python\n(.*?)```", text, re.S)


def blocks():
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Your own model\n")[2]
    texts = [section.partition("\n## ")[0], (ROOT / "docs/api.md").read_text(encoding="utf-8")]
    found = [block for text in texts for block in code_of(text)]
    assert len(found) >= 3
    return found


@pytest.mark.parametrize("code", blocks())
def test_code_runs_as_written(code, capsys):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        exec(code, {})
    assert capsys.readouterr().out.startswith("λ̂")


def test_the_page_on_language_models_runs_from_top_to_bottom(capsys):
    names = {}
    for code in code_of((ROOT / "docs/language_models.md").read_text(encoding="utf-8")):
        exec(code, names)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" = ")[0] for line in lines] == ["λ̂", "λ̂ of 512 parameters"]
    assert names["head"].num_examples == 2500
