"""A certificate beside evaluations, on the page and in Markdown."""

from pathlib import Path

import torch
from torch import nn

from redoubtable.evaluation import certified
from redoubtable.reports import write_page
from redoubtable.reports.markdown import as_markdown
from tests.unit.reports_parts import bare


def test_what_is_proved_stands_beside_what_attacks_leave(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    with torch.no_grad():
        net[1].weight.zero_()
        net[1].bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
    x, y = torch.rand(4, 1, 4, 4), torch.tensor([1, 1, 1, 0])
    found = certified(
        net, x, y, "ablation:rate=0.9", n=200, alpha=0.05, radii=[0, 3], name="always <1>"
    )
    page = write_page(
        tmp_path, [bare()], [{}], title="t", command="c", certificates=[found.record]
    ).read_text()
    said = as_markdown([bare()], title="t", command="c", certificates=[found.record])
    for text in (page, said):
        assert text.count("75.0%") >= 2  # the constant is right on three of four, at any radius
        assert "What is proved" in text or "Proved: always" in text
        assert "Guarantee: " in text
    assert "always &lt;1&gt;" in page


def test_without_a_certificate_nothing_is_said(tmp_path: Path) -> None:
    page = write_page(tmp_path, [bare()], [{}], title="t", command="c").read_text()
    assert "proved" not in page
