"""Model cards: their metadata is what the Hub reads, their figures are those of the run's record."""

import re
import shutil

import pytest
import yaml
from huggingface_hub import ModelCard

import unified_extractor as ux
from tests.support.families import SMALL
from tests.support.tiny_runs import in_this_process, write_config
from unified_extractor.interop.hub import HubNetwork
from unified_extractor.results.sources import read_run
from unified_extractor.training import ConfigurationError, model_card


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run, started by a short command."""
    folder = tmp_path_factory.mktemp("card")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["/somewhere/bin/uniex", "fit", "--config", "run.yaml"])
        in_this_process("fit", "--config", write_config(folder, trainer__limit_train_batches=2))
    return folder / "runs" / "tiny"


def front_matter(text):
    """The metadata of a card, by a reader of YAML of its own."""
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)[1])


def test_the_card_of_a_run_has_its_record_and_its_recipe(run, tmp_path):
    record = read_run(run / "version_0")
    card = model_card(run, license="apache-2.0", limits="Only <b>digits</b>.")
    card.save(tmp_path / "README.md")
    text = (tmp_path / "README.md").read_text()
    data = front_matter(text)
    assert (data["license"], data["library_name"], data["pipeline_tag"]) == (
        "apache-2.0",
        "unified_extractor",
        "image-classification",
    )
    ((result,),) = [one["results"] for one in data["model-index"]]
    assert result["metrics"] == [{"type": "accuracy", "value": record.test_accuracy}]
    assert (result["dataset"]["name"], result["dataset"]["split"]) == ("digits", "test")
    for expected in (
        f"{record.test_accuracy:.2%}",
        f"{record.parameters:,} parameters, for 10 classes of 8x8 images",
        f"Epoch {record.best_epoch} of 2, the best by validation accuracy, tested once on {record.test_images} images.",
        "Command: `uniex fit --config run.yaml`",
        f"torch {record.versions['torch']}",
        "`digits`: 1,797 gray images of 8x8 pixels in ten classes",
        "Classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9.",
        "    learning_rate: 0.01\n",
        "    crop_padding: 1\n",
        "The license of the weights: apache-2.0.",
        "Only <b>digits</b>.",
    ):
        assert expected in text
    assert "\n\n\n" not in text


def test_a_card_goes_with_a_network_to_the_hub_and_back(run, tmp_path):
    network, card = ux.load(run).network, model_card(run)
    HubNetwork(network, card).save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == str(card)
    again = HubNetwork.from_pretrained(tmp_path)
    assert again.card.data.to_dict() == card.data.to_dict()
    again.save_pretrained(tmp_path / "again")
    assert ModelCard.load(tmp_path / "again" / "README.md").text == card.text
    assert "not stated; ask the author" in card.text


def test_a_network_without_a_run_has_a_card_of_what_it_knows(tmp_path):
    HubNetwork(SMALL["rednet"](5)).save_pretrained(tmp_path, model_card_kwargs={"license": "mit"})
    text = (tmp_path / "README.md").read_text()
    assert front_matter(text)["license"] == "mit"
    assert "The network `RedNet`" in text
    assert "network = ux.interop.load(folder)" in text
    assert "## Figures" not in text
    assert "model-index" not in front_matter(text)


def test_what_has_no_figures_gets_no_card(run, tmp_path):
    with pytest.raises(ConfigurationError, match="is no folder of a run"):
        model_card(tmp_path)
    shutil.copytree(run / "version_0", tmp_path / "broken")
    (tmp_path / "broken" / "record.json").unlink()
    with pytest.raises(ConfigurationError, match=r"has no record\.json: only a finished run has figures for a card"):
        model_card(tmp_path / "broken")
