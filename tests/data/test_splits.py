"""Splits and subsets that keep the classes' shares."""

import pytest
import torch

from unified_extractor.data.splits import balanced_subset, stratified_split


def test_stratified_split_takes_the_fraction_of_every_class():
    labels = torch.tensor([0] * 10 + [1] * 20 + [2] * 2)
    rest, taken = stratified_split(labels, 0.2)
    assert labels[taken].bincount().tolist() == [2, 4, 1]
    assert sorted(torch.cat([rest, taken]).tolist()) == list(range(32))
    with pytest.raises(ValueError, match="two images"):
        stratified_split(torch.tensor([0, 0, 1]), 0.5)
    with pytest.raises(ValueError, match="fraction"):
        stratified_split(labels, 1.0)


def test_balanced_subsets_are_nested():
    labels = torch.tensor([0] * 10 + [1] * 3)
    small, large = (set(balanced_subset(labels, count).tolist()) for count in (2, 5))
    assert small < large
    assert labels[list(large)].bincount().tolist() == [5, 3]
    with pytest.raises(ValueError, match="per_class"):
        balanced_subset(labels, 0)
