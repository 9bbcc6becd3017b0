"""``uniex report``: tables and figures from rows alone, a folder a group, nothing written when something is wrong."""

import json
from dataclasses import asdict, replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from tests.support.refusals import refused
from tests.support.rows import ROW, SWITCHES_FILE, factorial_rows, row
from unified_extractor.__main__ import main
from unified_extractor.commands.report import make_report
from unified_extractor.results.comparison import compare
from unified_extractor.results.figure_style import GRAY, log_axis, role_colors, variant_colors
from unified_extractor.results.forest import draw_forest
from unified_extractor.results.groups import by_accuracy
from unified_extractor.results.intervals import draw_ranking
from unified_extractor.results.record import EpochMetrics, RecordError, read_rows, write_rows
from unified_extractor.visualize.result_figures import draw_accuracy_cost, draw_curves

TABLES = {f"{table}.{kind}" for table in ("results", "summary", "differences", "paired") for kind in ("csv", "md", "tex")}
FIGURES = {"forest.png", "curves.png", "accuracy_cost.png", "ranking.png"}
VARIANTS = {"convolution": (0.91, 35_000_000), "involution_k7": (0.94, 21_000_000), "unified": (0.96, 24_000_000)}


def rows_of(seeds=3, **fields):
    """Return rows of three variants that learn over fifteen epochs."""
    random = np.random.default_rng(0)
    rows = []
    for variant, (top, multiply_adds) in VARIANTS.items():
        for seed in range(seeds):
            accuracies = top - 0.5 * np.exp(-0.3 * np.arange(15)) + random.normal(0, 0.01, 15)
            curve = [
                EpochMetrics(epoch=epoch, train_loss=2.0 / epoch, train_accuracy=0.9, val_loss=2.5 / epoch, val_accuracy=float(a))
                for epoch, a in enumerate(accuracies, 1)
            ]
            of_run = {"curve": curve, "epochs": 15, "test_accuracy": float(accuracies[-1]), "multiply_adds": multiply_adds}
            rows.append(row(variant, seed, **of_run, **fields))
    return rows


def files(folder):
    return {path.name for path in folder.iterdir() if path.is_file()}


def report(tmp_path, rows, *arguments):
    """Return the output folder of a report that succeeds."""
    source = tmp_path / f"rows{len(list(tmp_path.glob('*.jsonl')))}.jsonl"
    write_rows(source, rows)
    assert main(["report", str(source), "--output", str(tmp_path / "out"), *map(str, arguments)]) == 0
    return tmp_path / "out"


def test_a_report_has_every_table_and_figure_with_the_rows_numbers(tmp_path, capsys):
    rows = rows_of()
    output = report(tmp_path, rows)
    assert files(output) == TABLES | FIGURES
    results = pd.read_csv(output / "results.csv").set_index("run")
    for expected in rows:
        assert results.loc[expected.run, "test_accuracy"] == expected.test_accuracy
        assert f"{expected.test_accuracy:.2%}" in (output / "results.md").read_text()
        assert f"{100 * expected.test_accuracy:.2f}\\%" in (output / "results.tex").read_text()
    summary = pd.read_csv(output / "summary.csv").set_index("variant")
    mean = np.mean([row.test_accuracy for row in rows if row.variant == "unified"])
    assert summary.loc["unified", "test_accuracy"] == pytest.approx(mean)
    differences = (output / "differences.md").read_text()
    assert "digits: mean test accuracy minus that of convolution\n" in differences
    assert "* All 2 intervals cover their true differences at once with a probability of 95 % (Dunnett)." in differences
    assert "All 2 intervals cover" in (output / "differences.tex").read_text()
    assert "paired by seed; each 95 % t-interval by itself, 2 comparisons made" in (output / "paired.md").read_text()
    printed = capsys.readouterr().out
    assert f"{mean:.2%}" in printed
    assert "35,000,000" in printed
    assert str(output) in printed
    assert "All 2 intervals cover" in printed


def test_baseline_and_metric_are_chosen(tmp_path):
    output = report(tmp_path, rows_of(), "--baseline", "unified", "--metric", "test_loss")
    table = pd.read_csv(output / "differences.csv")
    assert set(table["baseline"]) == {"unified"}
    assert set(table["variant"]) == set(VARIANTS) - {"unified"}
    assert "test_loss_difference" in table
    assert "test_loss_half_width" in pd.read_csv(output / "summary.csv")


def test_groups_get_a_folder_each_and_share_nothing(tmp_path):
    rows = [*rows_of(), *rows_of(dataset="cifar10", budget="cpu"), *rows_of(seeds=1, dataset="cifar10", budget="gpu")]
    output = report(tmp_path, rows)
    assert {path.name for path in output.iterdir()} == {"digits", "cifar10-cpu", "cifar10-gpu"}
    for folder, count in (("digits", 9), ("cifar10-cpu", 9), ("cifar10-gpu", 3)):
        results = pd.read_csv(output / folder / "results.csv")
        assert len(results) == count
        assert results["run"].str.endswith(folder.replace("-", "")).all()
        assert files(output / folder) >= (FIGURES if count == 9 else FIGURES - {"forest.png"})


def test_with_one_seed_there_are_no_intervals_not_even_old_ones(tmp_path):
    assert files(report(tmp_path, rows_of())) == TABLES | FIGURES
    output = report(tmp_path, rows_of(seeds=1))
    assert files(output) == {name for name in TABLES if not name.startswith("paired")} | FIGURES - {"forest.png"}
    assert "* No interval: the baseline convolution has one seed." in (output / "differences.md").read_text()
    assert pd.read_csv(output / "summary.csv")["test_accuracy_half_width"].isna().all()
    assert "± (points)" in (output / "summary.md").read_text()
    assert "0.00 |" not in (output / "summary.md").read_text()


def test_run_folders_need_nothing_but_their_record_and_the_report_goes_beside_them(tmp_path, capsys):
    for number, record in enumerate(rows_of(seeds=1)):
        (tmp_path / f"version_{number}").mkdir()
        write_rows(tmp_path / f"version_{number}" / "record.json", [record])
    assert main(["report", str(tmp_path)]) == 0
    assert len(pd.read_csv(tmp_path / "report" / "results.csv")) == 3
    assert f"{rows_of(seeds=1)[0].test_accuracy:.2%}" in capsys.readouterr().out
    assert main(["report", str(tmp_path), "--rows", str(tmp_path / "kept" / "rows.jsonl")]) == 0
    assert main(["report", str(tmp_path / "kept" / "rows.jsonl")]) == 0
    for table in ("results", "summary"):
        assert (tmp_path / "kept" / "report" / f"{table}.csv").read_text() == (tmp_path / "report" / f"{table}.csv").read_text()


def test_rows_are_gathered_in_one_new_file(tmp_path, capsys):
    rows = [*rows_of(), *rows_of(dataset="cifar10")]
    report(tmp_path, rows, "--rows", tmp_path / "all.jsonl")
    assert read_rows([tmp_path / "all.jsonl"]) == rows
    capsys.readouterr()
    arguments = (tmp_path / "rows0.jsonl", "--rows", tmp_path / "all.jsonl", "--output", tmp_path / "again")
    assert "all.jsonl exists: rows are never overwritten" in refused(capsys, "report", *arguments)
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("rows", "arguments", "message"),
    [
        (
            [row(), replace(row(), run="the-other-one", config_hash="of another version")],
            (),
            "rows.jsonl:1 and ",
        ),
        ([row(), row(seed=1, parameters=7)], (), "differ in parameters: 12345 in "),
        ([row("a"), row("b")], ("--baseline", "c"), "no variant 'c' to be the baseline of digits, there are a, b"),
        ([row("a"), row("b", dataset="x")], ("--baseline", "a"), "no variant 'a' to be the baseline of x, there are b"),
        ([row()], ("--metric", "accuracy"), "the metrics are test_accuracy"),
        ([row(test_top5_accuracy=None)], ("--metric", "test_top5_accuracy"), "has no test_top5_accuracy"),
        ([], (), "no rows in"),
    ],
)
def test_a_mistake_gets_one_line_and_writes_nothing(tmp_path, capsys, rows, arguments, message):
    write_rows(tmp_path / "rows.jsonl", rows)
    outputs = ("--output", tmp_path / "out", "--rows", tmp_path / "new" / "all.jsonl")
    assert message in refused(capsys, "report", tmp_path / "rows.jsonl", *arguments, *outputs)
    assert files(tmp_path) == {"rows.jsonl"}
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "new").exists()


def test_unusable_sources_are_refused(tmp_path, capsys):
    assert "no such file or folder" in refused(capsys, "report", tmp_path / "nowhere")
    assert "no record.json in or below it" in refused(capsys, "report", tmp_path)
    (tmp_path / "record.json").write_text(json.dumps(asdict(row()), indent=2))
    assert "record.json:1: not a row" in refused(capsys, "report", tmp_path)
    assert files(tmp_path) == {"record.json"}


def test_curves_are_the_mean_and_the_range_of_the_seeds():
    rows = rows_of()
    accuracy, *losses = draw_curves(rows).axes
    assert [len(axis.lines) for axis in (accuracy, *losses)] == [3, 3, 3]
    assert len(accuracy.collections) == 3
    assert [axis.get_yscale() for axis in losses] == ["log", "log"]
    values = 100 * np.array([[point.val_accuracy for point in row.curve] for row in rows[:3]])
    assert accuracy.lines[0].get_xdata().tolist() == list(range(1, 16))
    assert accuracy.lines[0].get_ydata() == pytest.approx(values.mean(0))
    heights = accuracy.collections[0].get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((values.min(), values.max()))
    (legend,) = accuracy.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [f"{variant} (3 seeds)" for variant in VARIANTS]


def test_a_single_run_of_a_single_epoch_has_curves():
    figure = draw_curves([row(epochs=1, curve=row().curve[:1])])
    figure.canvas.draw()
    assert not figure.axes[0].collections
    assert [[line.get_ydata().tolist() for line in axis.lines] for axis in figure.axes] == [[[61.0]], [[0.9]], [[1.1]]]


def test_figures_refuse_what_cannot_be_compared():
    for draw in (draw_curves, draw_accuracy_cost):
        for rows in ([row(), row(dataset="x")], [row(), replace(row(), run="the-other-one")]):
            with pytest.raises(RecordError):
                draw(rows)


def test_accuracy_against_cost_has_a_labeled_point_a_variant_and_bars_over_seeds():
    (axis,) = draw_accuracy_cost(rows_of()).axes
    assert len(axis.containers) == 3
    points = {float(container.lines[0].get_xdata()[0]): container for container in axis.containers}
    assert set(points) == {multiply_adds for _, multiply_adds in VARIANTS.values()}
    assert all(container.has_yerr for container in points.values())
    labels = {text.get_text(): text.xy for text in axis.texts if text.get_text()}
    assert set(labels) == set(VARIANTS)
    for variant, (_, multiply_adds) in VARIANTS.items():
        assert labels[variant] == (multiply_adds, points[multiply_adds].lines[0].get_ydata()[0])
    (axis,) = draw_accuracy_cost(rows_of(seeds=1)).axes
    assert not any(container.has_yerr for container in axis.containers)


def test_accuracy_is_drawn_against_a_cost_that_was_measured():
    milliseconds = dict(zip(VARIANTS, (1.5, 4.0, 2.5), strict=True))
    (axis,) = draw_accuracy_cost(rows_of(), costs=milliseconds, cost="ms").axes
    assert axis.get_xlabel() == "ms"
    assert {text.get_text(): text.xy[0] for text in axis.texts if text.get_text()} == milliseconds
    with pytest.raises(RecordError, match="there is no cost of unified"):
        draw_accuracy_cost(rows_of(), costs={"convolution": 1.0, "involution_k7": 1.0})


def test_sizes_of_one_extractor_are_a_line_labeled_at_its_end():
    rows = [
        row(f"{name}@{size}M", seed=seed, multiply_adds=size * 1_000_000, test_accuracy=0.5 + size / 100 + seed / 1000)
        for name, sizes in (("involution", (8, 16, 4)), ("convolution", (8,)))
        for size in sizes
        for seed in (0, 1)
    ]
    (axis,) = draw_accuracy_cost(rows).axes
    assert [container.lines[0].get_xdata()[0] / 1e6 for container in axis.containers] == [8, 16, 4, 8]
    assert {text.get_text(): text.xy[0] / 1e6 for text in axis.texts if text.get_text()} == {"involution": 16, "convolution": 8}
    points = {container.lines[0] for container in axis.containers}
    lines = [line for line in axis.lines if line not in points and len(line.get_xdata()) > 1 and line.get_linestyle() == "-"]
    assert [(line.get_xdata() / 1e6).tolist() for line in lines] == [[4, 8, 16]]
    assert lines[0].get_ydata() == pytest.approx([54.05, 58.05, 66.05])


def test_variants_of_one_cost_are_not_drawn_against_it_and_many_have_no_curves(tmp_path):
    same = [replace(row, multiply_adds=20_000_000 + len(row.variant)) for row in rows_of()]
    assert files(report(tmp_path, rows_of())) - TABLES == FIGURES
    assert files(report(tmp_path, same)) - TABLES == FIGURES - {"accuracy_cost.png"}
    many = [replace(row(f"variant{number}"), multiply_adds=10_000_000 * (1 + number)) for number in range(21)]
    assert files(report(tmp_path, many)) - TABLES == {"ranking.png"}


@pytest.mark.parametrize("spread", [0.001, 0])
def test_labels_cover_neither_each_other_nor_points(spread):
    """Ten variants near each other in two columns, or at one height in a row with one far away."""
    random = np.random.default_rng(1)
    accuracies = 0.95 + spread * random.normal(0, 1, 10)
    costs = [20_000_000 + (number % 2 if spread else 300_000 * number + 10_000_000 * (number == 9)) for number in range(10)]
    rows = [
        row(f"variant_{number}_of_some_length", test_accuracy=float(accuracy), multiply_adds=cost)
        for number, (accuracy, cost) in enumerate(zip(accuracies, costs, strict=True))
    ]
    figure = draw_accuracy_cost(rows)
    figure.canvas.draw()
    (axis,) = figure.axes
    boxes = [text.get_window_extent() for text in axis.texts if isinstance(text, Annotation) and text.get_text()]
    assert len(boxes) == 10
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    points = axis.transData.transform([text.xy for text in axis.texts if text.get_text()])
    assert not [1 for box in boxes for point in points if box.contains(*point)]
    frame = axis.get_window_extent()
    assert all(frame.contains(*corner) for box in boxes for corner in box.corners())


def test_chosen_variants_are_reported_in_the_order_asked_for(tmp_path, capsys):
    output = report(tmp_path, rows_of(), "--variants", "unified", "convolution")
    assert pd.read_csv(output / "summary.csv")["variant"].tolist() == ["unified", "convolution"]
    assert pd.read_csv(output / "differences.csv")["baseline"].tolist() == ["unified"]
    source = tmp_path / "rows0.jsonl"
    assert "no row of variant 'volo', there are convolution" in refused(capsys, "report", source, "--variants", "volo")


def test_effects_and_gradients_are_made_when_asked_for(tmp_path, capsys):
    norms = [EpochMetrics(**asdict(ROW.curve[0]) | {"gradient_norms": [0.5, 0.25]})]
    rows = [replace(row, curve=norms) for row in factorial_rows(lambda *levels: 0.5 + 0.02 * levels[0], noise=0.01)]
    output = report(tmp_path, rows, "--effects", str(SWITCHES_FILE), "--gradients")
    assert files(output) - TABLES - FIGURES == {"effects.csv", "effects.md", "effects.tex", "effects.png", "gradient_norms.png"}
    table = pd.read_csv(output / "effects.csv").set_index("effect")
    assert f"{100 * table.loc['offsets', 'test_accuracy_difference']:+.2f}" in (output / "effects.md").read_text()
    assert "15 comparisons made; p corrected for their number by Holm's method" in (output / "effects.md").read_text()
    assert (table["p_holm"] >= 0).all()
    report(tmp_path, rows)
    assert not files(output) - TABLES - FIGURES
    write_rows(without := tmp_path / "without.jsonl", rows_of())
    assert "has no gradient norms of its stages" in refused(capsys, "report", without, "--gradients")
    assert "effects need a factorial of at least two switches" in refused(
        capsys, "report", without, "--effects", str(SWITCHES_FILE)
    )


def run_folders(root, rows):
    """Write each row into a run folder of its own, as ``fit`` does; a run that is not finished has no ``record.json``."""
    for folder, record in rows.items():
        (root / folder).mkdir(parents=True)
        (root / folder / "environment.json").write_text("{}")
        if record is not None:
            write_rows(root / folder / ("record.json" if record.planned_epochs is None else "progress.json"), [record])


def unfinished(variant, epochs, planned=30, **fields):
    nothing = dict.fromkeys(("test_accuracy", "test_top5_accuracy", "test_loss", "test_calibration_error"))
    return row(variant, run=f"unfinished-{variant}-{epochs}", epochs=epochs, planned_epochs=planned, **nothing, **fields)


def test_runs_that_were_not_trained_alike_say_so_in_every_table(tmp_path):
    rows = [
        row("a", epochs=6, learning_rate=0.1, settings_hash="1"),
        row("b", epochs=30, learning_rate=0.01, settings_hash="2", test_accuracy=0.97),
    ]
    output = report(tmp_path, rows)
    for table in ("results", "summary"):
        data = pd.read_csv(output / f"{table}.csv").set_index("variant")
        assert data["epochs"].to_dict() == {"a": 6, "b": 30}
        assert data["learning_rate"].to_dict() == {"a": 0.1, "b": 0.01}
        assert "train_images" not in data
        assert "| epochs | learning rate |" in (output / f"{table}.md").read_text()
    assert "not trained alike: epochs, learning rate differ" in (output / "summary.md").read_text()
    (axis,) = draw_ranking(rows).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == [
        "a, epochs 6, learning rate 0.1",
        "b, epochs 30, learning rate 0.01",
    ]
    alike = report(tmp_path, [row("a"), row("b")])
    assert not {"epochs", "learning_rate", "batch_size", "train_images"} & set(pd.read_csv(alike / "results.csv"))
    assert "not trained alike" not in (alike / "summary.md").read_text()


def test_a_repeated_command_counts_once_and_the_folder_left_out_is_named(tmp_path, capsys):
    first = row("b", finished="2025-01-01T00:00:00+00:00", test_accuracy=0.5)
    last = row("b", run="run-again-0", finished="2025-01-02T00:00:00+00:00", test_accuracy=0.75)
    run_folders(tmp_path, {"b/version_0": first, "b/version_1": last, "a/version_0": row("a")})
    assert main(["report", str(tmp_path), "--rows", str(tmp_path / "rows.jsonl")]) == 0
    again = f"left out: {tmp_path}/b/version_0: b with seed 0 was run again with the same settings, in {tmp_path}/b/version_1\n"
    assert capsys.readouterr().out.endswith(again)
    assert pd.read_csv(tmp_path / "report" / "summary.csv").set_index("variant")["test_accuracy"]["b"] == 0.75
    assert [one.run for one in read_rows([tmp_path / "rows.jsonl"])] == ["run-a-0-digits", "run-again-0"]
    assert "source" not in json.loads((tmp_path / "rows.jsonl").read_text().splitlines()[0])


def test_other_settings_under_one_name_are_told_apart(tmp_path):
    rows = {
        "b/version_0": row("b", epochs=6, settings_hash="1", config_hash="1"),
        "b/version_1": row("b", run="run-longer-0", epochs=30, settings_hash="2", config_hash="2"),
        "c/version_0": row("c", settings_hash="3", config_hash="3"),
        "c/version_1": row("c", run="run-other-0", settings_hash="4", config_hash="4"),
        "c/version_2": row("c", 1, settings_hash="4", config_hash="5"),
    }
    run_folders(tmp_path, rows)
    assert main(["report", str(tmp_path)]) == 0
    seeds = pd.read_csv(tmp_path / "report" / "summary.csv").set_index("variant")["seeds"]
    place = f"{tmp_path}/c/version_"
    assert seeds.to_dict() == {"b (epochs 6)": 1, "b (epochs 30)": 1, f"c (as in {place}0)": 1, f"c (as in {place}1)": 2}


def test_runs_that_are_not_finished_are_named_and_reported_when_asked_for(tmp_path, capsys):
    rows = {"a": row("a", epochs=30, settings_hash="0"), "a2": row("a", 1, epochs=30, settings_hash="0")}
    cut = {"b": unfinished("b", 3), "c": unfinished("c", 30), "d": None}
    run_folders(tmp_path, rows | cut)
    assert main(["report", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for text in (
        "b: not finished, 3 of 30 epochs; --unfinished takes it\n",
        "c: not finished, not tested yet; --unfinished takes it\n",
        "d: not finished, and no epoch has been validated\n",
    ):
        assert f"left out: {tmp_path}/{text}" in printed
    assert pd.read_csv(tmp_path / "report" / "results.csv")["variant"].tolist() == ["a", "a"]
    assert main(["report", str(tmp_path), "--unfinished", "--rows", str(tmp_path / "rows.jsonl")]) == 0
    printed = capsys.readouterr().out
    assert "--unfinished takes it" not in printed
    assert "b (unfinished, 3 of 30 epochs)" in printed
    results = pd.read_csv(tmp_path / "report" / "results.csv").set_index("variant")
    assert results["val_accuracy"]["b (unfinished, 3 of 30 epochs)"] == row().val_accuracy
    assert np.isnan(results["test_accuracy"]["b (unfinished, 3 of 30 epochs)"])
    assert pd.read_csv(tmp_path / "report" / "summary.csv")["variant"].tolist() == ["a"]
    assert len(read_rows([tmp_path / "rows.jsonl"])) == 2


def test_a_folder_with_nothing_but_runs_that_are_not_finished(tmp_path, capsys):
    run_folders(tmp_path, {"b": unfinished("b", 3)})
    assert f"left out: {tmp_path}/b: not finished, 3 of 30 epochs; --unfinished takes it" in refused(capsys, "report", tmp_path)
    assert main(["report", str(tmp_path), "--unfinished"]) == 0
    assert files(tmp_path / "report") == {"results.csv", "results.md", "results.tex", "curves.png"}


def test_colors_of_variants_are_those_of_every_figure_of_a_report(tmp_path):
    rows = [
        row(variant, seed=seed, multiply_adds=cost, dataset=dataset)
        for dataset, variants in (("a", ("x", "y@2M", "y@10M")), ("b", ("y@10M", "z", "x")))
        for cost, variant in enumerate(variants, 1)
        for seed in (0, 1)
    ]
    colors = variant_colors(one.variant for one in rows)
    assert len(set(colors.values())) == len(colors) == 4
    assert sum(colors["y@2M"]) > sum(colors["y@10M"])  # a shade of the same, paler
    for dataset in ("a", "b"):
        own = [one for one in rows if one.dataset == dataset]
        figures = make_report(own, colors=colors).figures
        names = list(dict.fromkeys(one.variant for one in own))
        assert [line.get_color() for line in figures["curves"].axes[0].lines] == [colors[name] for name in names]
        points = [container.lines[0].get_color() for container in figures["accuracy_cost"].axes[0].containers]
        assert points == [colors[name] for name in names]
        (axis,) = figures["ranking"].axes
        order = [label.get_text() for label in axis.get_yticklabels()]
        assert [container.lines[0].get_color() for container in axis.containers] == [colors[name] for name in order]


@pytest.mark.parametrize("accuracy", [1.0, 0.995, 0.0])
def test_axes_of_accuracies_end_at_100_percent(accuracy):
    curve = [replace(point, val_accuracy=accuracy) for point in row().curve]
    rows = [
        row(variant, seed=seed, test_accuracy=max(0.0, accuracy - 0.01 * seed * (accuracy > 0)), curve=curve, multiply_adds=cost)
        for cost, variant in enumerate(("x", "y"), 1)
        for seed in (0, 1)
    ]
    report = make_report(rows)
    limits = [
        report.figures["curves"].axes[0].get_ylim(),
        report.figures["accuracy_cost"].axes[0].get_ylim(),
        report.figures["ranking"].axes[0].get_xlim(),
    ]
    assert all(0 <= low < high <= 100 for low, high in limits)
    titles = [axis.get_title() for axis in report.figures["curves"].axes]
    assert "plain cross entropy" in titles[1]
    assert "label smoothing" in titles[2]


def test_the_frontier_leaves_out_what_is_dearer_and_no_better():
    points = {"cheap": (1, 0.5), "worse": (2, 0.4), "best": (4, 0.7), "dear": (8, 0.6)}
    rows = [row(name, multiply_adds=cost * 1_000_000, test_accuracy=accuracy) for name, (cost, accuracy) in points.items()]
    (axis,) = draw_accuracy_cost(rows).axes
    (frontier,) = [line for line in axis.lines if line.get_linestyle() == ":"]
    assert (frontier.get_xdata() / 1e6).tolist() == [1, 4, 8]
    assert frontier.get_ydata().tolist() == pytest.approx([50, 70, 70])


@pytest.mark.parametrize(
    ("values", "scale"), [((1.0, 1.2), "linear"), ((1.2, 2.1), "log"), ((4e6, 16e6), "log"), ((0.0, 5.0), "linear")]
)
def test_a_log_axis_has_numbers_at_its_ticks(values, scale):
    axis = Figure().subplots()
    axis.plot(values, values)
    log_axis(axis, "x")
    assert axis.get_xscale() == scale
    low, high = axis.get_xlim()
    ticks = [tick for tick in axis.get_xticks() if low <= tick <= high]
    assert len(ticks) >= 3
    labels = axis.xaxis.get_major_formatter().format_ticks(ticks)
    assert len({*labels, ""}) == len(ticks) + 1


def test_more_than_ten_extractors_share_five_colors_by_validation_accuracy():
    rows = [
        row(f"v{number}", val_accuracy=number / 20, curve=[replace(ROW.curve[0], epoch=n) for n in (1, 2)])
        for number in range(12)
    ]
    colors = variant_colors((one.variant for one in rows), by_accuracy(rows, "v0"))
    assert {variant for variant, color in colors.items() if color != GRAY} == {"v0", "v11", "v10", "v9", "v8"}
    (legend,) = draw_curves(rows, colors=colors).legends
    assert [text.get_text() for text in legend.get_texts()] == ["v0", "v8", "v9", "v10", "v11", "7 others"]


def test_the_main_figure_has_every_difference_with_its_interval_and_role(tmp_path):
    rows = rows_of()
    comparison = compare(rows, baseline="involution_k7")
    axis = draw_forest(comparison, "digits", roles={"unified": "candidate", "convolution": "control"}).axes[0]
    table = comparison.table().set_index("variant")
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert labels == ["convolution", "unified"]  # from the bottom, the best on top
    assert axis.get_xlabel() == "test accuracy minus that of involution_k7 (points)"
    intervals = [line for line in axis.lines if line.get_linewidth() == 2.2]
    for name, interval, label in zip(labels, intervals, axis.get_yticklabels(), strict=True):
        expected = 100 * table.loc[name, ["test_accuracy_low", "test_accuracy_high"]].to_numpy(float)
        assert np.asarray(interval.get_xdata()) == pytest.approx(expected)
        assert (
            interval.get_color()
            == label.get_color()
            == role_colors(["candidate", "control"])[{"unified": "candidate"}.get(name, "control")]
        )
    (legend,) = axis.figure.legends
    of_roles = {text.get_text(): line.get_color() for text, line in zip(legend.texts, legend.get_lines(), strict=True)}
    assert of_roles == dict(role_colors(["candidate", "control"]))
    dots = [line for line in axis.lines if line.get_marker() == "o"]
    assert [dot.get_markerfacecolor() == "white" for dot in dots] == [
        low < 0 < high for low, high in zip(table["test_accuracy_low"], table["test_accuracy_high"], strict=True)
    ]
    losses = {"worse": 0.7, "base": 0.5, "better": 0.2}
    rows = [row(name, seed, test_loss=loss + 0.01 * seed) for name, loss in losses.items() for seed in range(3)]
    axis = draw_forest(compare(rows, metric="test_loss", baseline="base"), "digits").axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["worse", "better"]
    assert [line.get_markerfacecolor() for line in axis.lines if line.get_marker() == "o"] == ["black", "black"]
    rows = [row(name, seed, test_accuracy=0.5 + 0.1 * seed) for name in ("base", "same") for seed in range(3)]
    (dot,) = [line for line in draw_forest(compare(rows, baseline="base"), "digits").axes[0].lines if line.get_marker() == "o"]
    assert dot.get_markerfacecolor() == "white"


def test_names_and_roles_are_given_on_the_command_line(tmp_path, capsys):
    output = report(
        tmp_path, rows_of(), "--rename", "involution_k7=involution", "--baseline", "involution", "--roles", "control=convolution"
    )
    assert set(pd.read_csv(output / "results.csv")["variant"]) == {"convolution", "involution", "unified"}
    assert read_rows([tmp_path / "rows0.jsonl"]) == rows_of()
    for arguments, message in (
        (
            ("--rename", "involution=x"),
            "no row of variant 'involution', there are convolution, involution_k7, unified, did you mean involution_k7?",
        ),
        (("--rename", "unified=convolution"), "the variants convolution and unified would both be called convolution"),
        (("--rename", "unified"), "must be former=name, got 'unified'"),
        (("--roles", "control=unifed"), "no row of variant 'unifed'"),
        (("--roles", "a=unified", "b=unified"), "the variant unified has two roles, a and b"),
    ):
        assert message in refused(capsys, "report", tmp_path / "rows0.jsonl", *arguments)
