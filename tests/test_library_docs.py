"""The code of docs/api.md and of the README's section on one's own model runs as written."""

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


def blocks():
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Your own model\n")[2]
    texts = [section.partition("\n## ")[0], (ROOT / "docs/api.md").read_text(encoding="utf-8")]
    found = [block for text in texts for block in re.findall(r"```python\n(.*?)```", text, re.S)]
    assert len(found) >= 3
    return found


@pytest.mark.parametrize("code", blocks())
def test_code_runs_as_written(code, capsys):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        exec(code, {})
    assert capsys.readouterr().out.startswith("λ̂")
