"""Studies that run for long: what a signal leaves behind."""

import pytest

from studies import mala_vs_sgld, samplers


@pytest.mark.parametrize("study", [samplers, mala_vs_sgld])
def test_a_stopped_study_leaves_its_page_as_it_was(study, tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("of nine problems")
    monkeypatch.setattr(study, "PAGE", page)
    monkeypatch.setattr(study, "commands", lambda *_, **__: ["a line"])
    monkeypatch.setattr(study, "run_all", lambda *_: 143)
    assert study.main([]) == 143
    assert page.read_text() == "of nine problems"
