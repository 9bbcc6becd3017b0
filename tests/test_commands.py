"""``uniex describe``, ``visualize`` and ``explore``: what they print, draw and refuse."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

import unified_extractor as ux
from tests.support.presets import PRESETS, UPSAMPLERS
from tests.support.refusals import refused
from tests.support.rows import row
from unified_extractor.__main__ import main
from unified_extractor.commands import visualize
from unified_extractor.commands.describe import read_spec
from unified_extractor.description import describe, formula, in_words
from unified_extractor.visualize.label_placement import wrapped
from unified_extractor.visualize.spec_drawings import operator

CONFIGS = Path(__file__).parents[1] / "configs"


def test_describe_prints_formula_words_and_cost_and_draws(tmp_path, capsys):
    picture = tmp_path / "involution.png"
    assert main(["describe", "involution", "kernel_size=5", "--channels", "32", "--size", "8", "--picture", str(picture)]) == 0
    text = capsys.readouterr().out
    layer = ux.UnifiedExtractor2d(32, 32, ux.presets.involution(5))
    for expected in (
        "y[c,p] = sum_k D[g(c),k,p] x[c, p + t_k]",
        "5x5 taps",
        f"{ux.analysis.cost(layer, (32, 8, 8)).multiply_adds:,}",
    ):
        assert expected in text
    assert picture.stat().st_size > 5000


def test_a_kernel_of_the_whole_image_is_not_said_to_differ_between_positions():
    spec = ux.presets.conditional_convolution()
    assert formula(spec) == "y[o,p] = sum_m sum_k sum_c S[m,o,c,k] D[m,g(c)] x[c, p + t_k]"
    assert "one for the whole image, one value for all taps" in in_words(spec)["weight"]
    assert "D[g(c),k,p]" in formula(ux.presets.involution())
    assert "its own at every position" in in_words(ux.presets.involution())["weight"]


def test_the_outputs_of_a_pixel_are_described():
    spec = ux.presets.carafe()
    assert formula(spec) == "y[c,p] = sum_k D[g(c),k,p] x[c, floor(p/2) + t_k]"
    assert in_words(spec)["upsample"] == "2x2 outputs for every pixel, each with a kernel of its own"
    assert in_words(spec)["generator"] == "sees 3x3 pixels, 64 hidden channels, dense convolution"
    assert in_words(UPSAMPLERS["all alike"])["upsample"] == "2x2 outputs for every pixel, all alike"
    assert in_words(UPSAMPLERS["offsets"])["upsample"].endswith("each with a kernel and offsets of its own")
    assert formula(ux.presets.dysample()) == "y[c,p] = sum_k x[c, clamp((p + 1/2)/2 - 1/2 + 0.25*t_k + 0.25*offset[f(c),k,p])]"
    assert in_words(ux.presets.dysample())["weight"] == "none: the samples of a window are summed"
    assert in_words(ux.presets.dysample(style="pl"))["generator"] == "pixel shuffle, sees the window's own pixel"


def test_describe_draws_only_what_it_is_asked_to(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["describe", "involution", "generator.view=5", "dynamic_kernel.normalization=softmax", "--size", "8"]) == 0
    assert "softmax" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_goes_away_ends_a_command_without_a_word():
    command = [sys.executable, "-m", "unified_extractor", "describe", "involution"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == -signal.SIGPIPE


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", PRESETS | UPSAMPLERS)
def test_every_preset_has_words_and_a_drawing(name):
    spec = (PRESETS | UPSAMPLERS)[name]
    cost = ux.analysis.cost(ux.UnifiedExtractor2d(32, 32, spec), (32, 8, 8))
    text = describe(name, spec, cost, (32, 8, 8))
    assert f"{cost.parameters:,}" in text
    assert ("offset[" in formula(spec)) == spec.offsets.are_trained
    assert ("S[" in formula(spec)) == (spec.static_kernel.channels != "none")
    assert ("D[" in formula(spec)) == (spec.dynamic_kernel.source != "none")
    assert "None" not in "".join(in_words(spec).values())
    operator(name, spec).canvas.draw()


def test_describe_yaml_is_the_spec(tmp_path, capsys):
    assert main(["describe", "outlook_attention", "heads=4", "--yaml"]) == 0
    file = tmp_path / "spec.yaml"
    file.write_text(capsys.readouterr().out)
    assert read_spec(str(file)) == ux.ExtractorSpec(**yaml.safe_load(file.read_text())) == ux.presets.outlook_attention(heads=4)


@pytest.mark.parametrize("name", ["extractor/unified.yaml", "digits/unified.yaml", "image_folder/unified.yaml"])
def test_describe_reads_a_spec_or_a_run(name, tmp_path, capsys):
    assert main(["describe", str(CONFIGS / name), "--picture", str(tmp_path / "p.png")]) == 0
    assert "(1 + D[g(c),k,p])" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["involutoin"], "neither a YAML file nor a preset, did you mean involution?"),
        (["wings"], "neither a YAML file nor a preset; the presets are convolution"),
        (["no/such.yaml"], "No such file"),
        (["involution", "kernel=5"], "involution has no option 'kernel', did you mean kernel_size"),
        (["involution", "5"], "an option is written name=value, got '5'"),
        (["involution", "kernel_size=five"], "kernel_size must be int or"),
        (["involution", "--channels", "40"], "channels_per_group must divide in_channels"),
        (["involution", "genrator.view=5"], "a spec has no field 'genrator.view', did you mean generator?"),
        (["involution", "kernel_size.x=5"], "kernel_size.x names a field of a value that has none"),
        (["deformable_convolution"], "needs version, for example"),
        (["involution", "kernel_size=[3"], "kernel_size must be int or"),
        (["neighborhood_attention", "--size", "5"], "needs an image height of at least"),
    ],
)
def test_describe_refuses_in_one_line(arguments, message, capsys):
    assert message in refused(capsys, "describe", *arguments)


def test_an_unknown_command_is_refused_and_none_prints_the_help(capsys):
    assert main([]) == 0
    assert "describe" in capsys.readouterr().out
    assert main(["trian"]) == 2
    assert "no command 'trian'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two short runs on digits."""
    root = tmp_path_factory.mktemp("runs")
    for name in ("involution", "unified"):
        config = CONFIGS / "digits" / f"{name}.yaml"
        assert main(["fit", "--config", str(config), "--run.root", str(root), "--trainer.max_epochs", "1"]) == 0
    return root


def test_visualize_draws_trained_networks(runs, tmp_path, capsys):
    assert main(["visualize", str(runs), "--image", "3", "--output", str(tmp_path / "windows.png")]) == 0
    assert "test image 3, class 8" in capsys.readouterr().out
    assert (tmp_path / "windows.png").stat().st_size > 10_000


def test_explore_writes_a_page_of_trained_networks(runs, tmp_path, capsys):
    page, photo = tmp_path / "page.html", tmp_path / "photo.png"
    assert main(["explore", str(runs), "--output", str(page)]) == 0
    assert "2 networks" in capsys.readouterr().out
    assert '"size":[8,8],' in page.read_text()
    Image.new("RGB", (40, 30)).save(photo)
    best = runs / "digits" / "unified" / "version_0" / "checkpoints" / "best.ckpt"
    assert main(["explore", str(best), "--image", str(photo), "--output", str(page)]) == 0
    assert '"size":[480,480],' in page.read_text()
    assert '"field":' in page.read_text()
    ux.interop.save(ux.load(best).network, saved := tmp_path / "saved")
    assert main(["explore", str(saved), "--image", str(photo), "--output", str(page), "--no_receptive_fields"]) == 0
    assert f'"name":"{saved}"' in page.read_text()
    assert '"field":' not in page.read_text()
    assert "saved is a saved network, which has no test images: name a photograph" in refused(capsys, "explore", saved)
    assert "has no test images: name a photograph with --image FILE" in refused(capsys, "explore", best)
    assert "nowhere.png" in refused(capsys, "explore", best, "--image", tmp_path / "nowhere.png")


def test_networks_are_called_by_their_variants_and_runs_of_one_variant_by_their_seeds():
    assert visualize.run_names([row("static"), row("offsets")]) == ["static", "offsets"]
    assert visualize.run_names([row("static", 0), row("static", 1)]) == ["static seed=0", "static seed=1"]
    runs = [row("static", 0, source="a/version_0"), row("static", 0, source="a/version_1"), row("offsets", 1, source="b")]
    assert visualize.run_names(runs) == ["static seed=0 a/version_0", "static seed=0 a/version_1", "offsets seed=1 b"]
    assert wrapped("offsets-static-residual-wide") == "offsets-\nstatic-\nresidual-wide"
    assert wrapped("deformable_convolution_v2") == "deformable_\nconvolution_v2"


def test_visualize_refuses_folders_without_usable_runs(runs, tmp_path, capsys):
    assert "no such folder" in refused(capsys, "visualize", tmp_path / "nowhere")
    assert "no record.json in or below it" in refused(capsys, "visualize", tmp_path)
    assert "--image must be below" in refused(capsys, "visualize", runs, "--image", "9999")
    assert "--layer must be below" in refused(capsys, "visualize", runs, "--layer", "-1")
    assert "is not supported" in refused(capsys, "visualize", runs, "--output", tmp_path / "x.foo")
    broken = tmp_path / "broken"
    shutil.copytree(runs / "digits" / "unified" / "version_0", broken)
    (broken / "checkpoints" / "best.ckpt").unlink()
    assert "best.ckpt: no such file" in refused(capsys, "visualize", broken)
    (broken / "record.json").write_text('{"name": "x"')
    assert "record.json:1: not a row" in refused(capsys, "visualize", broken)
