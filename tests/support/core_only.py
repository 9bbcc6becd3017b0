"""A Python process in which the packages of the core alone can be imported, and what the package does there.

Run as a program it prints a line for everything that it did, and of each entry point that needs an extra what it said.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from contextlib import redirect_stderr
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from io import StringIO
from pathlib import Path
from typing import Any

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


def normalized(requirement: str) -> str:
    """Return the name of a package in a requirement such as ``PyYAML>=6``, in one spelling."""
    found = re.match(r"[\w.-]+", requirement)
    assert found
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def with_requirements(package: str, seen: set[str]) -> set[str]:
    """Return ``seen`` with a package and all that it requires without an extra."""
    if package not in seen:
        seen.add(package)
        try:
            needs = requires(package) or []
        except PackageNotFoundError:  # for another system
            needs = []
        for need in needs:
            if "extra ==" not in need:
                with_requirements(normalized(need), seen)
    return seen


class CoreFinder:
    """A finder of modules that knows those of the core alone."""

    hidden: frozenset[str] = frozenset()

    @classmethod
    def hide(cls) -> None:
        """Hide every installed package that ``pip install unified-extractor`` does not bring."""
        core: set[str] = set()
        for requirement in PROJECT["dependencies"]:
            with_requirements(normalized(requirement), core)
        owners = packages_distributions()
        own = {"unified_extractor", "tests"}
        cls.hidden = frozenset(name for name, those in owners.items() if not {*map(normalized, those)} & core) - own
        sys.meta_path[sys.meta_path.index(PathFinder)] = cls

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> Any:
        """Return what the usual finder finds, and nothing for a hidden package."""
        return None if name.partition(".")[0] in cls.hidden else PathFinder.find_spec(name, path, target)

    find_distributions = PathFinder.find_distributions


def core_work() -> Iterator[str]:
    """Do everything that needs no extra. Yield a line for each."""
    import torch

    import unified_extractor as ux
    from unified_extractor.__main__ import main
    from unified_extractor.named_specs import preset_names, preset_spec

    for name in preset_names():
        spec = preset_spec(name, **({"version": 2} if name == "deformable_convolution" else {}))
        x = torch.randn(2, 32, 9, 10, requires_grad=True)
        layer = ux.UnifiedExtractor2d(32, 32, spec)
        layer(x).square().mean().backward()
        assert x.grad is not None, name
        assert x.grad.isfinite().all(), name
        yield name
    for name in ("involution", "outlook_attention"):
        assert ux.analysis.cost(ux.UnifiedExtractor2d(32, 32, name), (32, 9, 10)).multiply_adds > 0
    yield "ux.analysis.cost"
    matched = {"multiply_adds": 8_000_000, "parameters": 220_000, "widths": (16, 48, 96), "stem_stride": 2}
    families = {
        "ResNet": lambda: ux.models.resnet26(3),
        "CIFARResNet": lambda: ux.models.resnet20(3),
        "RedNet": lambda: ux.models.rednet26(3),
        "VOLO": lambda: ux.models.volo_d1(3, img_size=32, drop_path_rate=0.1),
        "InternImage": lambda: ux.models.internimage_t(3, drop_path_rate=0.1),
        "FastNet": lambda: ux.models.fast_net_s(3),
        "MatchedNet": lambda: ux.models.MatchedNet(3, "involution", **matched),
    }
    for name, make in families.items():
        with torch.device("meta"), torch.no_grad():  # computing in them takes seconds, and needs nothing else
            assert make().eval()(torch.empty(2, 3, 32, 32)).shape == (2, 3), name
        yield name
    network = ux.models.extractor_net(3, widths=(16, 32), depths=(1, 2), drop_path_rate=0.5)
    network(torch.randn(2, 3, 16, 16)).sum().backward()
    yield "ExtractorNet"
    segmentation = ux.models.SegmentationNet(ux.models.extractor_net(1), 2)
    assert segmentation.eval()(torch.randn(1, 3, 32, 32)).shape == (1, 2, 32, 32)
    yield "SegmentationNet"
    torch.save(network.state_dict(), "weights.pth")
    ux.interop.load_weights(network, "weights.pth")
    yield "ux.interop.load_weights"
    for arguments in (["describe", "involution", "kernel_size=5"], ["--help"], ["--version"]):
        assert main(arguments) == 0
    yield "describe"


def refusals() -> Iterator[str]:
    """Yield what each entry point that needs an extra says."""
    import unified_extractor as ux
    from unified_extractor.__main__ import main

    def hub() -> None:
        import unified_extractor.interop.hub  # noqa: F401

    def timm() -> None:
        import unified_extractor.interop.timm  # noqa: F401

    network = ux.models.resnet20(3)
    doors = {
        "ux.training": lambda: ux.training,
        "ux.data": lambda: ux.data,
        "ux.visualize": lambda: ux.visualize,
        "ux.load": lambda: ux.load("runs"),
        "spec.to_yaml": lambda: ux.presets.involution().to_yaml(),
        "spec.from_yaml": lambda: ux.ExtractorSpec.from_yaml("spec.yaml"),
        "ux.interop.save": lambda: ux.interop.save(network, "folder"),
        "ux.interop.hub": hub,
        "ux.interop.timm": timm,
    }
    for name, door in doors.items():
        try:
            door()
        except ImportError as error:
            yield f"{name}: {error}"
    yield f"backend compiled: {ux.backends()['compiled']}"
    commands = ["fit", "validate", "test", "predict", "bench", "gpu", "sweep", "report", "visualize"]
    for arguments in [*([command, "--help"] for command in commands), ["describe", "unified", "--yaml"], ["compile"]]:
        said = StringIO()
        with redirect_stderr(said):
            try:
                code = main(arguments)
            except SystemExit as end:
                code = int(end.code or 0)
        assert code == 2, arguments
        yield f"uniex {' '.join(arguments)}: {said.getvalue().strip().splitlines()[-1]}"


if __name__ == "__main__":
    CoreFinder.hide()
    for line in core_work():
        print("did", line)
    for line in refusals():
        print("said", line)
    print("loaded", *sorted({name.partition(".")[0] for name in sys.modules} & CoreFinder.hidden))
