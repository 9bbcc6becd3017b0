"""Effects are those that made the numbers; what is no factorial is refused."""

import itertools

import numpy as np
import pytest
from scipy import stats

from tests.support.rows import FACTORIAL_SWITCHES, SWITCHES, factorial_rows, factorial_spec, row
from unified_extractor.results.effects import effects, factorial
from unified_extractor.results.intervals import draw_effects, draw_ranking
from unified_extractor.results.record import RecordError
from unified_extractor.results.switches import Switch, read_switches, states


@pytest.mark.parametrize("seeds", [1, 3])
def test_effects_are_found_as_they_were_made(seeds):
    rows = factorial_rows(lambda o, s, w, m, f: 0.5 + 0.02 * o - 0.01 * s + 0.04 * w * m, seeds=seeds)
    table = effects(rows, SWITCHES).set_index("effect")["test_accuracy_difference"]
    expected = {"offsets": 0.02, "static kernel": -0.01, "wide view": 0.02, "softmax": 0.02, "wide view x softmax": 0.04}
    assert len(table) == 5 + 10
    for name, value in table.items():
        assert value == pytest.approx(expected.get(name, 0.0), abs=1e-12), name


def test_a_main_effect_is_a_difference_of_means_and_its_interval_the_models():
    rows = factorial_rows(lambda *levels: 0.5, noise=0.01)
    table = effects(rows, SWITCHES).set_index("effect")
    design = factorial(rows, SWITCHES)
    accuracy = np.array([row.test_accuracy for row in rows])
    on = design["fold"].to_numpy(bool)
    line = table.loc["fold"]
    assert line["test_accuracy_difference"] == pytest.approx(accuracy[on].mean() - accuracy[~on].mean())
    signs = 2 * design[list(FACTORIAL_SWITCHES)].to_numpy(float) - 1
    columns = [np.ones(32), *signs.T, *(signs[:, i] * signs[:, j] for i, j in itertools.combinations(range(5), 2))]
    _, (residual,), _, _ = np.linalg.lstsq(np.stack(columns, 1), accuracy, rcond=None)
    half_width = stats.t.ppf(0.975, 16) * 2 * np.sqrt(residual / 16 / 32)
    assert line["test_accuracy_high"] - line["test_accuracy_low"] == pytest.approx(2 * half_width)
    assert set(table["comparisons"]) == {15}


def test_rows_that_differ_in_more_than_the_switches_are_no_part_of_it():
    rows = factorial_rows(lambda o, *_: 0.5 + 0.02 * o)
    others = [
        row("nothing generated", specs=[{"static_kernel": {"channels": "depthwise"}}]),
        row("larger", specs=[factorial_spec(1, 1, 0, 0, 0, kernel_size=7)]),
        row("residual", specs=[factorial_spec(1, 1, 0, 0, 0, combine="residual")]),
        row("unknown", specs=[]),
        row("a larger first stage", specs=[factorial_spec(1, 1, 0, 0, 0, kernel_size=7), factorial_spec(1, 1, 0, 0, 0)]),
        row("mixed", specs=[factorial_spec(1, 1, 0, 0, 0), factorial_spec(0, 1, 0, 0, 0)]),
        row("trained otherwise", specs=[factorial_spec(1, 1, 0, 0, 0)], settings_hash="0ther"),
    ]
    assert factorial([*rows, *others], SWITCHES)["variant"].tolist() == [row.variant for row in rows]
    assert effects([*rows, *others], SWITCHES).equals(effects(rows, SWITCHES))


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (lambda rows: rows[:1], "at least two switches"),
        (lambda rows: [row for row in rows if "-" not in row.variant], "more runs than terms"),
        (lambda rows: [row for row in rows if not {"offsets", "fold"} <= set(row.variant.split("-"))], "cells are missing"),
    ],
)
def test_what_is_no_factorial_is_refused(kept, message):
    with pytest.raises(RecordError, match=message):
        effects(kept(factorial_rows(lambda *_: 0.5, seeds=1, noise=0.01)), SWITCHES)


def test_a_spec_of_another_version_is_named():
    with pytest.raises(RecordError, match=r"a spec of another version: .*'colour'"):
        effects([*factorial_rows(lambda *_: 0.5), row("later", specs=[{"colour": "red"}])], SWITCHES)


def test_figures_show_every_effect_and_every_variant_by_rank():
    rows = factorial_rows(lambda o, s, w, m, f: 0.5 + 0.02 * o + 0.01 * s, seeds=2, noise=0.001)
    table = effects(rows, SWITCHES)
    upper, lower = draw_effects(table, "digits").axes
    names = [label.get_text() for axis in (upper, lower) for label in reversed(axis.get_yticklabels())]
    assert names == table["effect"].tolist()
    means = {row.variant: np.mean([one.test_accuracy for one in rows if one.variant == row.variant]) for row in rows}
    (axis,) = draw_ranking(rows).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == sorted(means, key=means.__getitem__)


def test_the_state_of_every_switch_stands_beside_the_ranking():
    rows = [
        *factorial_rows(lambda o, s, w, m, f: 0.5 + 0.02 * o + 0.01 * s),
        row("view of a window", specs=[factorial_spec(1, 0, 0, 0, 0, generator={"view": "window"})], seed=0),
        row("unlike stages", specs=[factorial_spec(1, 1, 0, 0, 0), factorial_spec(0, 1, 0, 0, 0)], seed=0),
        row("of somebody else", specs=[], seed=0),
    ]
    found = states(rows, SWITCHES)
    for variant in {one.variant for one in rows[:32]}:
        assert found.loc[variant].tolist() == [name.split()[0] in variant.split("-") for name in FACTORIAL_SWITCHES], variant
    assert found.loc["view of a window"].tolist() == [True, False, None, False, False]
    assert found.loc["unlike stages"].tolist() == [None, True, False, False, False]
    assert found.loc["of somebody else"].tolist() == [None] * len(SWITCHES)
    matrix, ranking = draw_ranking(rows, switches=found).axes
    names = [label.get_text() for label in matrix.get_yticklabels()]
    drawn = {(x, y) for line in matrix.lines if line.get_color() == "0.15" for x, y in zip(*line.get_data(), strict=True)}
    assert drawn == {
        (x, y) for y, name in enumerate(names) for x, switch in enumerate(FACTORIAL_SWITCHES) if found.loc[name, switch] is True
    }
    assert not any(label.get_visible() and label.get_text() for label in ranking.get_yticklabels())


def test_a_switch_may_be_several_fields_and_of_one_stage():
    """Placement is of the first stage; beside it the last stage's spec tells the other switches."""

    def spec(gate, early):
        dynamic = {"source": "generated", "channels_per_group": 16, "per_tap": not gate}
        both = {"static_kernel": {"channels": "depthwise"}, "combine": "add" if gate else "multiply", "dynamic_kernel": dynamic}
        return [both if early else {"static_kernel": {"channels": "dense"}}, both]

    switches = [
        Switch(
            "gate",
            {"last.dynamic_kernel.per_tap": True, "last.combine": "multiply"},
            {"last.dynamic_kernel.per_tap": False, "last.combine": "add"},
        ),
        Switch("late", {"first.dynamic_kernel.source": "generated"}, {"first.dynamic_kernel.source": "none"}),
    ]
    rows = [
        row(f"{gate}-{late}", seed, specs=spec(gate, not late), test_accuracy=0.5 + 0.02 * gate - 0.03 * late + 0.01 * seed)
        for gate in (0, 1)
        for late in (0, 1)
        for seed in range(2)
    ]
    half = row("half a gate", specs=[*spec(0, True)[:1], spec(1, True)[1] | {"combine": "multiply"}])
    table = effects([*rows, half], switches).set_index("effect")["test_accuracy_difference"]
    assert table.to_dict() == pytest.approx({"gate": 0.02, "late": -0.03, "gate x late": 0.0}, abs=1e-12)
    assert states([half], switches).loc["half a gate"].tolist() == [None, False]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "is no YAML"),
        ("fold: {aggregation: [gather, fold]}", "at least two switches"),
        ("a: {aggregation: [gather, fold]}\nb: 3", "b must be fields with two values each, .* got 3"),
        ("a: {aggregation: [gather, fold]}\nb: {colour: [1, 2]}", "b: a spec has no field colour"),
        ("a: {aggregation: [gather, fold]}\nb: {middle.terms: [1, 2]}", "b: a spec has no field middle.terms"),
        ("a: {aggregation: [gather]}\nb: {terms: [1, 4]}", r"a: aggregation must have two values, off and on, got \['gather'\]"),
        ("a: {aggregation: [fold, fold]}\nb: {terms: [1, 4]}", "a: aggregation must have two values"),
    ],
)
def test_a_file_of_switches_with_a_mistake_is_refused(text, message, tmp_path):
    (tmp_path / "switches.yaml").write_text(text)
    with pytest.raises(RecordError, match=f"switches.yaml.*{message}"):
        read_switches(tmp_path / "switches.yaml")


def test_a_file_of_switches_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RecordError, match=r"none\.yaml: no such file; it names the switches"):
        read_switches(tmp_path / "none.yaml")
