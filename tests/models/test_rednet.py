import pytest
import torch

import unified_extractor as ux

PUBLISHED = {
    "rednet26": 9_233_166,
    "rednet38": 12_386_986,
    "rednet50": 15_540_806,
    "rednet101": 25_652_950,
    "rednet152": 33_984_582,
}


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("name", "count"), PUBLISHED.items())
def test_parameter_counts_are_those_of_the_released_code(name, count):
    with torch.device("meta"):
        assert parameters(getattr(ux.models, name)()) == count


def test_a_stem_of_7x7_taps_gives_the_papers_table():
    with torch.device("meta"):
        assert parameters(ux.models.rednet26(stem_kernel_size=7)) == 9_233_886


@pytest.mark.parametrize(
    "spec",
    [None, ux.presets.convolution(), ux.presets.outlook_attention(), ux.presets.unified(), ux.presets.deformable_convolution(4)],
    ids=["published", "convolution", "outlook_attention", "unified", "deformable_convolution"],
)
@pytest.mark.parametrize("size", [64, 63])
def test_any_extractor_takes_the_place_of_involution(spec, size):
    network = ux.models.rednet26(5, spec).eval()
    image = torch.randn(1, 3, size, size)
    assert network.forward_features(image).shape == (1, 2048, 2, 2)
    assert network(image).shape == (1, 5)


@pytest.mark.parametrize("option", ["num_classes", "in_chans", "stem_kernel_size"])
def test_sizes_that_are_no_positive_ints_are_refused_by_name(option):
    with pytest.raises(ValueError, match=f"{option} must be at least 1"):
        ux.models.rednet26(**{option: 0})
    with pytest.raises(TypeError, match=f"{option} must be made of ints"):
        ux.models.rednet26(**{option: "3"})


def test_an_image_of_other_channels_is_refused():
    with pytest.raises(ValueError, match="in_chans=1"):
        ux.models.rednet26(in_chans=1)(torch.randn(1, 3, 32, 32))
