"""What the switches of the extractor do: main effects and two-way interactions of a factorial, by an ordinary linear model."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from unified_extractor.analysis.groups import by_variant
from unified_extractor.analysis.record import Record, RecordError
from unified_extractor.analysis.statistics import CONFIDENCE, values_of
from unified_extractor.spec import ExtractorSpec, Generator, Offsets, StaticKernel


@dataclass(frozen=True, kw_only=True)
class Factor:
    """A switch with two levels.

    Attributes:
        on: whether a spec has it.
        off: the spec without it.
    """

    on: Callable[[ExtractorSpec], bool]
    off: Callable[[ExtractorSpec], ExtractorSpec]


def _without_view(spec: ExtractorSpec) -> ExtractorSpec:
    generator = replace(spec.generator, view=1) if spec.generator.view_convolution == "depthwise" else Generator()
    return replace(spec, generator=generator)


FACTORS: Mapping[str, Factor] = {
    "offsets": Factor(on=lambda spec: spec.offsets.kind == "learned", off=lambda spec: replace(spec, offsets=Offsets())),
    "static kernel": Factor(
        on=lambda spec: spec.static_kernel.channels != "none", off=lambda spec: replace(spec, static_kernel=StaticKernel())
    ),
    "wide view": Factor(on=lambda spec: spec.generator.looks_around, off=_without_view),
    "softmax": Factor(
        on=lambda spec: spec.dynamic_kernel.normalisation == "softmax",
        off=lambda spec: replace(spec, dynamic_kernel=replace(spec.dynamic_kernel, normalisation="none")),
    ),
    "fold": Factor(on=lambda spec: spec.aggregation == "fold", off=lambda spec: replace(spec, aggregation="gather")),
}
"""The switches that are looked for. They leave a generated kernel, which the rows of a factorial all have."""


def factorial(rows: Sequence[Record]) -> pd.DataFrame:
    """The largest set of rows whose extractors differ in :data:`FACTORS` alone: variant, seed, and a column of bools a factor.

    The index is that of ``rows``. Factors in which the set does not differ have no column.

    Raises:
        RecordError: the rows cannot be compared, see :func:`by_variant`.
    """
    by_variant(rows)
    families: dict[ExtractorSpec, dict[int, dict[str, object]]] = {}
    for index, row in enumerate(rows):
        specs = {ExtractorSpec(**spec) for spec in row.specs}
        spec = specs.pop()
        if specs or spec.dynamic_kernel.source == "none":
            continue
        rest = spec
        for factor in FACTORS.values():
            rest = factor.off(rest)
        levels = {name: factor.on(spec) for name, factor in FACTORS.items()}
        families.setdefault(rest, {})[index] = {"variant": row.variant, "seed": row.seed, **levels}
    largest = pd.DataFrame.from_dict(max(families.values(), key=len, default={}), orient="index")
    return largest.drop(columns=[name for name in FACTORS if name in largest and largest[name].nunique() < 2])


def effects(rows: Sequence[Record], metric: str = "test_accuracy") -> pd.DataFrame:
    """Main effects and two-way interactions of the rows' :func:`factorial`, by least squares.

    A main effect is how much the metric is higher with the switch on, averaged over the others. An interaction is by how much one
    switch's effect is greater where the other is on. Seeds are blocks: each has a level of its own.

    Columns: effect, runs, the metric's difference and the two ends of its 95 % interval (by the residuals of the model, not corrected
    for the number of comparisons), and how many comparisons the table makes.

    Raises:
        RecordError: the rows cannot be compared, hold no factorial of two switches, too few runs for the model, or one has no such metric.
    """
    import statsmodels.formula.api as smf

    design = factorial(rows)
    names = [name for name in FACTORS if name in design]
    terms = [(name,) for name in names] + list(itertools.combinations(names, 2))
    seeds = design["seed"].nunique() if len(design) else 0
    if len(names) < 2 or len(design) <= len(terms) + seeds:
        raise RecordError(
            f"effects need a factorial of at least two switches, more runs than terms; found {len(design)} runs of {names}"
        )
    data = pd.DataFrame({f"x{i}": design[name].map({True: 0.5, False: -0.5}) for i, name in enumerate(names)})
    data["seed"], data["y"] = design["seed"], values_of([rows[index] for index in design.index], metric)
    formula = f"y ~ ({' + '.join(f'x{i}' for i in range(len(names)))}) ** 2" + (" + C(seed, Sum)" if seeds > 1 else "")
    fit = smf.ols(formula, data).fit()
    intervals, lines = fit.conf_int(1 - CONFIDENCE), []
    for term in terms:
        key = ":".join(f"x{names.index(name)}" for name in term)
        if not pd.notna(fit.bse[key]) or fit.model.rank < len(fit.params):
            raise RecordError(f"the runs do not tell the effects of {' and '.join(names)} apart: cells are missing")
        low, high = intervals.loc[key]
        interval = {f"{metric}_difference": fit.params[key], f"{metric}_low": low, f"{metric}_high": high}
        lines.append({"effect": " x ".join(term), "runs": len(design), **interval})
    return pd.DataFrame(lines).assign(comparisons=len(lines))
