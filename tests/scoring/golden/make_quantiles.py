"""Writes quantiles.json, by which test_quantile_golden.py holds the scorer and its baselines to 1e-6.

    pip install statsmodels==0.15.0 && python tests/scoring/golden/make_quantiles.py

Independent of the package: autoregressions are statsmodels', CRPS and coverage follow their definitions
value by value, windows are cut by hand.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import statsmodels.api as sm
from scipy.stats import norm
from statsmodels.tsa.ar_model import AutoReg

CONTEXT, HORIZON, FRAMES = 14, 4, 500
LEVELS = [k / 40 for k in range(1, 40)]
DECILES = [k / 10 for k in range(1, 10)]


def series() -> np.ndarray:
    """[FRAMES, 3]: an AR(1), an AR(3) and a slow oscillation in noise."""
    rng = np.random.default_rng(7)
    frames = np.zeros((FRAMES + 50, 3))
    for t in range(3, len(frames)):
        noise = rng.normal(size=3)
        frames[t, 0] = 0.8 * frames[t - 1, 0] + noise[0]
        frames[t, 1] = 0.5 * frames[t - 1, 1] + 0.6 * frames[t - 2, 1] - 0.4 * frames[t - 3, 1] + noise[1]
        frames[t, 2] = math.sin(t / 5) + 0.4 * noise[2]
    return frames[50:].astype(np.float32)


def rho(level: float, target: float, quantile: float) -> float:
    return (target - quantile) * (level - (1.0 if target < quantile else 0.0))


def window_starts(first: int, stop: int) -> list[int]:
    return list(range(first, stop - CONTEXT - HORIZON + 1))


def forecasts(y: np.ndarray, starts: list[int], params: np.ndarray, order: int) -> np.ndarray:
    """[W, H] by statsmodels' own recursion, from the context alone."""
    rows = []
    for start in starts:
        # A model refuses a series that it could not be fitted on; the zeros before it are never looked at.
        known = np.concatenate([np.zeros(3 * CONTEXT), y[start : start + CONTEXT]])
        model = AutoReg(known, lags=order, trend="c")
        rows.append(np.asarray(model.predict(params, start=len(known), end=len(known) + HORIZON - 1)))
    return np.array(rows)


def targets(y: np.ndarray, starts: list[int]) -> np.ndarray:
    return np.array([y[start + CONTEXT : start + CONTEXT + HORIZON] for start in starts])


def pooled_params(y: np.ndarray, starts: list[int], order: int) -> np.ndarray:
    rows = [[1.0, *(y[start + CONTEXT - lag] for lag in range(1, order + 1))] for start in starts]
    return np.asarray(sm.OLS([y[start + CONTEXT] for start in starts], np.array(rows)).fit().params)


def ar_valql(y: np.ndarray, train: list[int], validation: list[int], num_train: int) -> dict:
    losses: list[float] = []
    while len(losses) < CONTEXT and len(losses) - (int(np.argmin(losses)) + 1 if losses else 1) <= 9:
        order = len(losses) + 1
        fit = AutoReg(y[: num_train - HORIZON + 1], lags=order, trend="c", hold_back=CONTEXT).fit()
        by_hand = pooled_params(y, train, order)
        assert np.allclose(fit.params, by_hand, atol=1e-9)
        error = targets(y, train) - forecasts(y, train, fit.params, order)
        sigma = np.sqrt((error**2).mean(axis=0))
        points, came = forecasts(y, validation, fit.params, order), targets(y, validation)
        losses.append(
            sum(
                rho(q, came[w, h], points[w, h] + norm.ppf(q) * sigma[h])
                for q in DECILES
                for w in range(len(came))
                for h in range(HORIZON)
            )
        )
    order = int(np.argmin(losses)) + 1
    both = train + validation
    params = pooled_params(y, both, order)
    error = targets(y, both) - forecasts(y, both, params, order)
    return {"order": order, "params": params.tolist(), "sigma": np.sqrt((error**2).mean(axis=0)).tolist()}


def quantiles_of(mean: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """[39, W, H] from [W, H] and [H]."""
    return np.array([mean + norm.ppf(level) * sigma for level in LEVELS])


def scored(quantiles: np.ndarray, came: np.ndarray) -> dict:
    """Metrics of quantiles [39, W, H, N] and targets [W, H, N], by their definitions."""
    places = list(np.ndindex(came.shape))
    deciles = [LEVELS.index(k / 40) for k in range(4, 40, 4)]
    loss = sum(np.mean([2 * rho(LEVELS[k], came[at], quantiles[(k, *at)]) for k in deciles]) for at in places)
    crps = []
    for at in places:
        atoms = quantiles[(slice(0, 39, 2), *at)]
        spread = np.abs(atoms[:, None] - atoms[None]).mean()
        crps.append(np.abs(atoms - came[at]).mean() - spread / 2)
    found = {"mwql": loss / np.abs(came).sum(), "crps": float(np.mean(crps))}
    for name, low, high in (("0.5", 0.25, 0.75), ("0.8", 0.1, 0.9), ("0.9", 0.05, 0.95)):
        bottom, top = quantiles[LEVELS.index(low)], quantiles[LEVELS.index(high)]
        inside = (bottom <= came) & (came <= top)
        found[name] = {
            "coverage": float(inside.mean()),
            "width": float((top - bottom).mean()),
            "worst": float(inside.mean(axis=(0, 1)).min()),
            "by_step": inside.mean(axis=(0, 2)).tolist(),
        }
    level = np.array([(quantiles[(slice(None), *at)] < came[at]).sum() for at in places])
    found["pit"] = (np.bincount(level // 2, minlength=20) / len(places)).tolist()
    return found


def main() -> None:
    frames = series()
    num_train, num_both = int(FRAMES * 0.6), int(FRAMES * 0.8)
    fitted = frames[:num_train]
    y = (frames - fitted.mean(axis=0)) / fitted.std(axis=0)
    y = y.astype(np.float64)
    train, validation = window_starts(0, num_train), window_starts(num_train, num_both)
    test = window_starts(num_both, FRAMES)
    tiles = [s - CONTEXT for s in range(num_both, FRAMES - HORIZON + 1, HORIZON)]
    result: dict = {"context": CONTEXT, "horizon": HORIZON, "series": frames.tolist(), "tiles": tiles}
    regressions = [ar_valql(y[:, n], train, validation, num_train) for n in range(3)]
    result["ar"] = regressions
    result["step"] = [float(np.std(np.diff(y[:num_train, n]))) for n in range(3)]
    for name, starts in (("test", test), ("lu2025", tiles)):
        came = np.stack([targets(y[:, n], starts) for n in range(3)], axis=-1)
        by_unit = {"ar_valql": [], "normal": []}
        for n, fit in enumerate(regressions):
            points = forecasts(y[:, n], starts, np.array(fit["params"]), fit["order"])
            by_unit["ar_valql"].append(quantiles_of(points, np.array(fit["sigma"])))
            last = np.array([[y[start + CONTEXT - 1, n]] * HORIZON for start in starts])
            sigma = result["step"][n] * np.sqrt(np.arange(1, HORIZON + 1))
            by_unit["normal"].append(quantiles_of(last, sigma))
        result[name] = {key: scored(np.stack(each, axis=-1), came) for key, each in by_unit.items()}
    Path(__file__).with_name("quantiles.json").write_text(json.dumps(result) + "\n")
    print([fit["order"] for fit in regressions], result["test"]["ar_valql"]["mwql"])


if __name__ == "__main__":
    main()
