"""Effects of the extractor's switches: main effects and two-way interactions of a factorial, by an ordinary linear model."""

import itertools
import json
from collections.abc import Sequence

import numpy as np
import pandas as pd

from unified_extractor.results.groups import by_variant
from unified_extractor.results.paired import holm
from unified_extractor.results.record import Record, RecordError
from unified_extractor.results.statistics import CONFIDENCE, values_of
from unified_extractor.results.switches import Switch, rest, whole_specs


def factorial(rows: Sequence[Record], switches: Sequence[Switch]) -> pd.DataFrame:
    """Return the largest set of rows whose extractors differ in the switches alone: variant, seed, and a column of bools a switch.

    The index is that of ``rows``. Switches in which the set does not differ have no column. Of variants whose extractors are equal, but not
    their training, the first counts.

    Raises:
        RecordError: the rows cannot be compared, see :func:`by_variant`, or one has a spec of another version.
    """
    by_variant(rows)
    families: dict[str, dict[int, dict[str, object]]] = {}
    cells: dict[tuple[object, ...], str] = {}
    for index, row in enumerate(rows):
        specs = whole_specs(row)
        levels = {switch.name: switch.state(specs) for switch in switches}
        if (common := rest(specs, switches)) is not None and None not in levels.values():
            key = json.dumps(common, sort_keys=True)
            if cells.setdefault((key, *levels.values()), row.variant) == row.variant:
                families.setdefault(key, {})[index] = {"variant": row.variant, "seed": row.seed, **levels}
    largest = pd.DataFrame.from_dict(max(families.values(), key=len, default={}), orient="index")
    names = [switch.name for switch in switches if switch.name in largest]
    return largest.drop(columns=[name for name in names if largest[name].nunique() < 2])


def effects(rows: Sequence[Record], switches: Sequence[Switch], metric: str = "test_accuracy") -> pd.DataFrame:
    """Return main effects and two-way interactions of the rows' :func:`factorial`, by least squares.

    A main effect is how much the metric is higher with the switch on, averaged over the others. An interaction is by how much one
    switch's effect is greater where the other is on. Seeds are blocks: each has a level of its own.

    Columns: effect, runs, the metric's difference and the two ends of its 95 % interval (by the residuals of the model, not corrected
    for the number of comparisons), the p-value corrected for it by Holm's method, and how many comparisons the table makes.

    Raises:
        RecordError: the rows cannot be compared, hold no factorial of two switches, too few runs for the model, or one has no such metric.
    """
    import statsmodels.formula.api as smf

    design = factorial(rows, switches)
    names = [switch.name for switch in switches if switch.name in design]
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
