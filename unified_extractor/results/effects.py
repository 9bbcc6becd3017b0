"""Effects of the extractor's switches: main effects and two-way interactions of a factorial, by an ordinary linear model."""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from unified_extractor.results.groups import by_variant
from unified_extractor.results.paired import holm
from unified_extractor.results.record import Record, RecordError
from unified_extractor.results.statistics import CONFIDENCE, values_of
from unified_extractor.spec import ExtractorSpec


class Factor(NamedTuple):
    """A switch with two levels."""

    part: str
    """The part of the spec it belongs to."""
    field: str
    off: Any
    on: Any


FACTORS: Mapping[str, Factor] = {
    "offsets": Factor("offsets", "kind", "none", "learned"),
    "static kernel": Factor("static_kernel", "channels", "none", "depthwise"),
    "wide view": Factor("generator", "view", 1, 7),
    "softmax": Factor("dynamic_kernel", "normalization", "none", "softmax"),
    "fold": Factor("", "aggregation", "gather", "fold"),
}
"""The switches whose effects are estimated. The rows of a factorial all have a generated kernel."""


def factorial(rows: Sequence[Record]) -> pd.DataFrame:
    """Return the largest set of rows whose extractors differ in :data:`FACTORS` alone: variant, seed, and a column of bools a factor.

    The index is that of ``rows``. Factors in which the set does not differ have no column.

    Raises:
        RecordError: the rows cannot be compared, see :func:`by_variant`.
    """
    by_variant(rows)
    families: dict[str, dict[int, dict[str, object]]] = {}
    for index, row in enumerate(rows):
        try:
            specs = {ExtractorSpec(**spec) for spec in row.specs}
        except TypeError as error:
            raise RecordError(f"{row.place} has a spec of another version: {error}") from error
        if not specs:
            continue
        rest, levels = asdict(specs.pop()), {}
        for name, factor in FACTORS.items():
            fields = rest[factor.part] if factor.part else rest
            if fields[factor.field] in (factor.off, factor.on):  # any other value stays, and tells families apart
                levels[name] = fields.pop(factor.field) == factor.on
        if not specs and levels.keys() == FACTORS.keys() and rest["dynamic_kernel"]["source"] != "none":
            family = families.setdefault(json.dumps(rest, sort_keys=True), {})
            family[index] = {"variant": row.variant, "seed": row.seed, **levels}
    largest = pd.DataFrame.from_dict(max(families.values(), key=len, default={}), orient="index")
    return largest.drop(columns=[name for name in FACTORS if name in largest and largest[name].nunique() < 2])


def switches(rows: Sequence[Record]) -> pd.DataFrame:
    """Return the state of every switch of :data:`FACTORS` in every variant, whether part of a factorial or not.

    The index has the variants, a column each factor: True for on, False for off, None where the extractor has another value, several
    specs that differ in it, or a spec that is not known.
    """
    states = {}
    for variant, own in by_variant(rows).items():
        specs = [asdict(ExtractorSpec(**spec)) for spec in own[0].specs]
        states[variant] = {name: _state(specs, factor) for name, factor in FACTORS.items()}
    return pd.DataFrame.from_dict(states, orient="index", dtype=object)


def _state(specs: Sequence[Mapping[str, Any]], factor: Factor) -> bool | None:
    """Return whether a switch is on in all of the specs; None where it is neither on nor off in all of them."""
    values = [(spec[factor.part] if factor.part else spec)[factor.field] for spec in specs]
    for state, value in ((True, factor.on), (False, factor.off)):
        if values and all(found == value for found in values):
            return state
    return None


def effects(rows: Sequence[Record], metric: str = "test_accuracy") -> pd.DataFrame:
    """Return main effects and two-way interactions of the rows' :func:`factorial`, by least squares.

    A main effect is how much the metric is higher with the switch on, averaged over the others. An interaction is by how much one
    switch's effect is greater where the other is on. Seeds are blocks: each has a level of its own.

    Columns: effect, runs, the metric's difference and the two ends of its 95 % interval (by the residuals of the model, not corrected
    for the number of comparisons), the p-value corrected for it by Holm's method, and how many comparisons the table makes.

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
    model = smf.ols(formula, data)
    if np.linalg.matrix_rank(model.exog) < model.exog.shape[1]:
        raise RecordError(f"the runs do not tell the effects of {', '.join(names)} apart: cells are missing")
    fit = model.fit()
    intervals, lines = fit.conf_int(1 - CONFIDENCE), []
    keys = [":".join(f"x{names.index(name)}" for name in term) for term in terms]
    for term, key in zip(terms, keys, strict=True):
        low, high = intervals.loc[key]
        interval = {f"{metric}_difference": fit.params[key], f"{metric}_low": low, f"{metric}_high": high}
        lines.append({"effect": " x ".join(term), "runs": len(design), **interval})
    return pd.DataFrame(lines).assign(p_holm=holm([fit.pvalues[key] for key in keys]), comparisons=len(lines))
