"""The interactive page: it holds the windows of ``read_window``, needs nothing but itself, and follows pointer and keys."""

import base64
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch

import unified_extractor as ux
from tests.support.refusals import refused
from unified_extractor.profiling.extractors import extractors
from unified_extractor.visualize.receptive_field import effective_receptive_field
from unified_extractor.visualize.window_values import extractor_with_input, group_channels, read_window, read_windows

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DTYPES = {"centers": "<f4", "taps": "<i2", "scales": "<f4", "weights": "i1"}


def network(spec, depths=(1, 1)):
    made = ux.models.extractor_net(10, spec, widths=(16, 16), depths=depths).eval()
    for name, parameter in made.named_parameters():
        if "offsets" in name:
            torch.nn.init.normal_(parameter, std=0.3)  # they are zero before training
    return made


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Networks, an image, and their page."""
    torch.manual_seed(0)
    specs = {
        "involution </script>": "involution(kernel_size=3, channels_per_group=4)",
        "unified": "unified",
        "fold": "outlook_attention",
    }
    networks, image = {name: network(spec) for name, spec in specs.items()}, torch.rand(3, 12, 16)
    return networks, image, ux.visualize.explore(networks, image, tmp_path_factory.mktemp("page") / "new" / "page.html")


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)[1])


def windows(layer, group):
    """The taps and weights ``[rows, columns, K, ...]`` of a stored group."""
    values = {name: np.frombuffer(base64.b64decode(group[name]), dtype) for name, dtype in DTYPES.items()}
    shape, taps = (len(layer["rows"]), len(layer["columns"])), layer["kernel"][0] * layer["kernel"][1]
    places = values["centers"].reshape(-1, 1, 2) + values["taps"].reshape(-1, taps, 2) / 64
    weights = values["weights"].reshape(-1, taps) / 127 * values["scales"][:, None]
    return places.reshape(*shape, taps, 2), np.broadcast_to(weights, (places.shape[0], taps)).reshape(*shape, taps)


def test_the_page_has_the_windows_as_exactly_as_it_says(page):
    networks, image, file = page
    panels = data_of(file)["panels"]
    assert [panel["name"] for panel in panels] == list(networks)
    for panel in panels:
        for number, layer in enumerate(panel["layers"]):
            extractor, x = extractor_with_input(networks[panel["name"]], image[None], number)
            places, weights = windows(layer, layer["groups"][0])
            for i, j in ((0, 0), (len(layer["rows"]) // 2, 1), (len(layer["rows"]) - 1, len(layer["columns"]) - 1)):
                reading = read_window(extractor, x, (layer["rows"][i], layer["columns"][j]))
                expected = torch.stack([reading.rows.flatten(), reading.columns.flatten()], 1).numpy()
                assert np.abs(places[i, j] - expected).max() <= 1 / 128 + 1e-4
                values = reading.weights.flatten().numpy()
                assert np.abs(weights[i, j] - values).max() <= np.abs(values).max() * (1 / 254 + 1e-5)


def test_groups_of_channels_are_read_each_with_its_own_kernel():
    layer = ux.UnifiedExtractor2d(8, 8, "involution(kernel_size=3, channels_per_group=2)").eval()
    x = torch.randn(1, 8, 5, 4)
    assert group_channels(layer) == [0, 2, 4, 6]
    kernel = layer.generate(x)[1][0]  # [G, K, H, W]
    positions = (torch.tensor([0, 4, 2]), torch.tensor([3, 1, 2]))
    for group, channel in enumerate(group_channels(layer)):
        read = read_windows(layer, x, positions, channel=channel).weights.flatten(1)
        torch.testing.assert_close(read, kernel[group][:, positions[0], positions[1]].T)
    grouped = ux.UnifiedExtractor2d(8, 16, "convolution(groups=2)")
    assert group_channels(grouped) == [0, 4]
    own = read_windows(grouped, x, positions, channel=5).weights[0]
    torch.testing.assert_close(own, grouped.static_kernel.detach()[8, 1])


def test_receptive_fields_are_those_of_the_figures(page):
    networks, image, file = page
    for panel in data_of(file)["panels"]:
        layer = panel["layers"][1]
        values = np.frombuffer(base64.b64decode(layer["field"]["values"]), "u1").astype(float)
        fields = (values / 255).reshape(len(layer["field"]["rows"]), len(layer["field"]["columns"]), *layer["field"]["size"]) ** 2
        center = [layer["field"][axis].index(size // 2) for axis, size in zip(("rows", "columns"), layer["output"], strict=True)]
        one = networks[panel["name"]]
        stages = torch.nn.Module()
        stages.stages, stages.forward = torch.nn.ModuleList(extractors(one).values()), one.forward
        expected = effective_receptive_field(stages, image[None], stage=1)
        assert np.abs(fields[tuple(center)] - (expected / expected.max()).numpy()).max() < 0.01


def test_the_page_needs_nothing_but_itself(page):
    text = page[2].read_text()
    assert not re.search(r"(src|href)=[\"'](?!data:)|https?:|@import|fetch\(", text)
    assert text.count("</script>") == 2  # a network's name ends none
    assert page[2].stat().st_size < 500_000


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_pointer_keys_and_address_choose_the_window(page, tmp_path):
    networks, image, file = page
    gestures = """<script>addEventListener("load", () => {
      for (const key of ["]", "ArrowRight", "f"]) document.dispatchEvent(new KeyboardEvent("keydown", { key }));
      const kept = document.querySelector("section .reading").textContent, canvas = document.querySelector(".photograph");
      const box = canvas.getBoundingClientRect();
      const at = { clientX: box.left + 1, clientY: box.top + 1, pointerType: "touch" };
      canvas.dispatchEvent(new PointerEvent("pointerdown", at));
      document.body.insertAdjacentHTML("beforeend", `<i id="kept">${kept}</i>`);
    })</script>"""
    (tmp_path / "page.html").write_text(file.read_text().replace("</body>", f"{gestures}</body>"))
    address = f"file://{tmp_path}/page.html#y=0.4&x=0.3&layer=0"
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path}/profile",
        "--dump-dom",
        address,
    ]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    layer = data_of(file)["panels"][0]["layers"][1]
    row, column = int(0.4 * layer["output"][0]), int((0.3 + 1 / layer["output"][1]) * layer["output"][1])
    reading = read_window(*extractor_with_input(next(iter(networks.values())), image[None], 1), (row, column))
    largest = reading.weights.flatten()[reading.weights.abs().argmax()]
    told = re.search(rf'<i id="kept">window {row}, {column}: largest weight ([+\u2212][\d.]+)', dom)
    assert told, dom[-600:]
    assert float(told[1].replace("\u2212", "-")) == pytest.approx(float(largest), rel=0.006)
    assert '<p class="reading">window 0, 0:' in dom
    assert "layer 2 / 2" in dom


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_page_without_receptive_fields_has_no_switch_for_them(tmp_path):
    file = ux.visualize.explore(network("involution"), torch.rand(3, 8, 8), tmp_path / "page.html", receptive_fields=False)
    assert not [layer for panel in data_of(file)["panels"] for layer in panel["layers"] if "field" in layer]
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile", "--dump-dom"]
    dom = subprocess.run([*command, f"file://{file}#field=1"], capture_output=True, text=True, timeout=60, check=True).stdout
    assert re.findall(r'class="of-fields"( hidden="")?', dom) == [' hidden=""'] * 3
    assert '<p class="reading">window 4, 4:' in dom


@pytest.mark.parametrize(
    ("networks", "shown", "message"),
    [
        ({}, None, "networks must have at least one network, got none"),
        ({"plain": torch.nn.Linear(2, 2)}, None, "plain has no extractor, so there is no window to show"),
        ({"one": torch.nn.Identity()}, torch.rand(4), "shown must be [h, w] or [h, w, 3], got shape [4]"),
    ],
)
def test_mistakes_are_told(networks, shown, message, tmp_path):
    with pytest.raises(ValueError, match=re.escape(message)):
        ux.visualize.explore(networks, torch.rand(3, 8, 8), tmp_path / "page.html", shown=shown)


def test_the_command_refuses_in_one_line(tmp_path, capsys):
    assert "no such folder" in refused(capsys, "explore", tmp_path / "nowhere")
    assert "no record.json in or below it" in refused(capsys, "explore", tmp_path)
