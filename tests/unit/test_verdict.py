"""The verdict says what the record allows and no more."""

import re
from typing import Any

import pytest

from redoubtable.evaluation.evaluate import SCHEMA
from redoubtable.reports import verdict
from redoubtable.reports.record import with_interval
from tests.unit.reports_parts import bare, finding, record, share


def test_a_defense_that_falls_is_said_to_fall() -> None:
    said = verdict(record(static=0.55, adaptive=0.02))
    assert "looks like 55.0% under static attacks" in said
    assert f"adaptive ones leave {with_interval(share(0.02))}" in said
    assert said.endswith("The defense of guard falls once the attacker knows it.")


def test_a_defense_that_falls_without_knowledge_is_said_to_fall_so() -> None:
    assert "even to attackers who do not know it" in verdict(record(static=0.1, adaptive=0.02))


def test_a_bare_model_that_falls_is_not_said_to_have_a_defense() -> None:
    said = verdict(bare())
    assert "falls to 0.0% [0.0, 1.3] under attack at Linf:51/255" in said
    assert "cannot be relied on" in said
    assert "defense" not in said


def test_what_stands_is_an_upper_bound_and_never_called_robust() -> None:
    said = verdict(record(static=0.9, adaptive=0.8))
    assert "upper bound" in said
    assert "robust" not in said


def test_adaptive_that_is_not_much_lower_is_said_so() -> None:
    assert "not clearly less than the 82.0% of static ones" in verdict(
        record(static=0.82, adaptive=0.8)
    )


def test_adaptive_attacks_that_are_weaker_than_static_ones_are_said_so() -> None:
    said = verdict(record(static=0.6, adaptive=0.9, findings=[finding("fail")]))
    assert "more than the 60.0% of static ones, which knew less" in said


def test_a_weak_adaptive_attack_does_not_hide_a_fall_under_static_ones() -> None:
    said = verdict(record(static=0.2, adaptive=0.9))
    assert "falls even to attackers who do not know it" in said
    assert "upper bound" not in said


def test_a_failed_check_forbids_reading_the_number_as_robustness() -> None:
    said = verdict(record(static=0.9, adaptive=0.9, findings=[finding("fail"), finding()]))
    assert 'must not be read as robustness: the check "more steps" failed' in said
    assert "upper bound" not in said


def test_a_failed_check_beside_a_fall_says_that_less_may_be_left() -> None:
    said = verdict(record(findings=[finding("fail")]))
    assert "falls once the attacker knows it" in said
    assert 'the check "more steps" failed, so less may be left' in said


@pytest.mark.parametrize("findings", [[], [finding("not run")]])
def test_without_checks_there_is_no_claim(findings: list[dict[str, Any]]) -> None:
    said = verdict(record(static=0.9, adaptive=0.9, findings=findings))
    assert "no check of it ran" in said


def test_without_adaptive_attacks_there_is_no_claim() -> None:
    said = verdict(record(static=0.9, adaptive=None))
    assert "no adaptive attack ran" in said
    assert "claim no robustness" in said


def test_without_any_attack_there_is_no_claim() -> None:
    said = verdict(bare(adaptive=None))
    assert "was unattacked" in said
    assert "claim no robustness" in said


def test_a_demo_is_told_in_two_sentences_with_every_number() -> None:
    models = [("natural", bare), ("guard", record)]
    found = [
        make(name, threat=t, adaptive=a)
        for t, a in (("Linf:51/255", 0.02), ("L0:20", 0.1))
        for name, make in models
    ]
    said = verdict({"schema": SCHEMA, "kind": "demo", "evaluations": found})
    assert len(re.findall(r"\.(?= [A-Z]|$)", said)) == 2
    assert said.count(with_interval(share(0.02))) == 2
    assert said.count(with_interval(share(0.1))) == 2
    # All results of a model agree, so its threats need not be named again.
    assert said.endswith(
        "Under attack natural cannot be relied on; "
        "the defense of guard falls once the attacker knows it."
    )


def test_a_clause_names_the_threat_where_a_model_has_other_results() -> None:
    said = verdict([record(adaptive=0.02), record(threat="L0:20", static=0.9, adaptive=0.8)])
    assert "The defense of guard at Linf:51/255 falls" in said
    assert "what guard at L0:20 keeps" in said


def test_no_evaluation_is_no_verdict() -> None:
    with pytest.raises(ValueError, match="at least one evaluation"):
        verdict([])
