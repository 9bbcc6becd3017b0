"""This package's networks in timm's registry, once this module is imported: ``timm.create_model("uniex_rednet50", spec=...)``.

No network has pretrained weights.
"""

import inspect
from collections.abc import Callable
from typing import Any

import unified_extractor.models as models
from unified_extractor.extras import needed

_timm, _data = needed("timm.models"), needed("timm.data")

_PRETRAINED = {
    "url": "",
    "pool_size": None,
    "mean": _data.IMAGENET_DEFAULT_MEAN,
    "std": _data.IMAGENET_DEFAULT_STD,
}


def _entrypoint(name: str, make: Callable[..., models.StagedNetwork]) -> Callable[..., Any]:
    """Return the function that timm calls to make the network."""

    def create(pretrained: bool = False, global_pool: str | None = None, **options: Any) -> Any:
        features = {"out_indices": options.pop("out_indices", None), "feature_cls": "getter"}  # None: all stages
        network = _timm.build_model_with_cfg(make, create.__name__, pretrained, feature_cfg=features, **options)
        if not options.get("features_only"):
            network.check_pool(global_pool)
        return network

    create.__name__ = create.__qualname__ = f"uniex_{name}"
    create.__doc__ = make.__doc__
    return create


_NETWORKS = {name: getattr(models, name) for name in models.__all__ if name.islower()}
"""The variants by name, and ``extractor_net``; families have names in upper case."""


def _configuration(make: Any) -> dict[str, Any]:
    """Return the configuration of a network: a classifier's name, or a tuple of several, and the sizes for which it was published."""
    family: type[models.StagedNetwork] = make if isinstance(make, type) else make.__annotations__["return"]
    names, size = family.classifiers, family.usual_image_size
    return _PRETRAINED | {
        "classifier": names[0] if len(names) == 1 else names,
        "num_classes": inspect.signature(make).parameters["num_classes"].default,
        "input_size": (3, size, size),
    }


default_cfgs = {f"uniex_{name}": _configuration(make) for name, make in _NETWORKS.items()}
"""The configurations of the models; timm reads them here when a model is registered."""
__all__ = []

for _name, _make in _NETWORKS.items():
    _timm.register_model(_entrypoint(_name, _make))
