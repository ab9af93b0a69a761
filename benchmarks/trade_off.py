"""What scale and angular margin are worth to the reward and to accuracy, from every candidate of the table's searches.

    python -m benchmarks.trade_off [benchmarks/results/real_faces/candidates.csv]

Candidates of one generation started from the same weights and saw the same pictures: least squares on differences
within generations, from the third on, over all searches in the space `unified`, standard errors by the residuals.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

CANDIDATES = Path(__file__).parent / "results" / "real_faces" / "candidates.csv"
UNITS = {"scale": ("scale doubled", np.log(2)), "m_cos": ("m_cos + 0.1", 0.1), "m_arc": ("m_arc + 0.3", 0.3)}
SCORES = {"reward": "reward, TAR@FAR=1e-4", "accuracy": "accuracy", "auc": "AUC"}


def within(path: Path) -> pd.DataFrame:
    """Parameters and scores of candidates, less their generation's mean; the number of generations in `attrs`."""
    table = pd.read_csv(path)
    losses = table["loss"].map(json.loads)
    table = table[(losses.map(lambda loss: loss["loss"]) == "unified") & (table["generation"] >= 2)].copy()
    for name in UNITS:
        table[name] = [loss[name] for loss in losses[table.index]]
    table["scale"] = np.log(table["scale"])
    columns, groups = [*UNITS, *SCORES], table.groupby(["cell", "generation"])
    centred = table[columns] - groups[columns].transform("mean")
    centred.attrs["groups"] = groups.ngroups
    return centred


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else CANDIDATES
    table = within(path)
    x = table[list(UNITS)].to_numpy()
    freedom = len(table) - table.attrs["groups"] - len(UNITS)
    inverse = np.linalg.inv(x.T @ x)
    print(f"{len(table)} candidates of {table.attrs['groups']} generations; points (1/100)")
    print("".rjust(22), *(label.rjust(16) for label, _ in UNITS.values()))
    for score, title in SCORES.items():
        y = table[score].to_numpy()
        slopes = inverse @ x.T @ y
        errors = np.sqrt(np.sum((y - x @ slopes) ** 2) / freedom * np.diag(inverse))
        cells = [
            f"{100 * s * unit:+.2f} ± {100 * e * unit:.2f}"
            for s, e, (_, unit) in zip(slopes, errors, UNITS.values(), strict=True)
        ]
        print(title.rjust(22), *(cell.rjust(16) for cell in cells))


if __name__ == "__main__":
    main()
