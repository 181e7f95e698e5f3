"""Factors and preconditioned gradients after methods.md, in float64 and without any blocking trick.

A factor pair is ``(A, G, T)`` per group: F ~= T * A (x) G.
"""

from __future__ import annotations

import numpy as np

from oracle.layers import Conv, Dense, Embedding

Array = np.ndarray


def sentences(rows: Array, lengths: list[int]) -> list[Array]:
    """The rows of each sentence."""
    return np.split(rows, np.cumsum(lengths)[:-1])


def rows(layer: Dense | Conv, homogeneous: bool, token_mode: str = "expand") -> tuple[Array, Array]:
    """Inputs [N, groups, T, d_in(+1)] and per-sample output gradients [N, groups, T, d_out].

    A layer with ``lengths`` has the rows of all its sentences behind one another.
    """
    x, ds = layer.x, layer.ds
    lengths = getattr(layer, "lengths", None)
    if isinstance(layer, Conv):
        n = x.shape[0]
        a = layer.patches(x).transpose(0, 1, 3, 2)
        g = n * ds.reshape(n, layer.groups, ds.shape[1] // layer.groups, -1).transpose(0, 1, 3, 2)
    elif lengths is not None and token_mode == "reduce":
        a = np.stack([s.mean(0) for s in sentences(x, lengths)])[:, None, None]
        g = np.stack([len(x) * s.mean(0) for s in sentences(ds, lengths)])[:, None, None]
    elif x.ndim == 2 or token_mode == "expand":
        a = x.reshape(-1, 1, 1, x.shape[-1])
        g = a.shape[0] * ds.reshape(-1, 1, 1, ds.shape[-1])
    else:  # reduce: means over the tokens first
        a = x.mean(1)[:, None, None]
        g = x.shape[0] * x.shape[1] * ds.mean(1)[:, None, None]
    if homogeneous:
        a = np.concatenate([a, np.ones((*a.shape[:-1], 1))], -1)
    return a, g


def factors(
    layer: Dense | Conv, homogeneous: bool = False, token_mode: str = "expand"
) -> tuple[Array, Array, float]:
    """A [groups, d_in, d_in], G [groups, d_out, d_out], T."""
    a, g = rows(layer, homogeneous, token_mode)
    n, _, t, _ = a.shape
    return (
        np.einsum("ngti,ngtj->gij", a, a) / (n * t),
        np.einsum("ngti,ngtj->gij", g, g) / (n * t),
        float(t),
    )


def matrix(layer: Dense | Conv, homogeneous: bool) -> Array:
    """The gradient as [groups, d_out, d_in(+1)]."""
    groups = getattr(layer, "groups", 1)
    d = layer.d["weight"]
    m = d.reshape(groups, d.shape[0] // groups, -1)
    if homogeneous:
        m = np.concatenate([m, layer.d["bias"].reshape(groups, -1, 1)], 2)
    return m


def block_diagonal(m: Array, split: int | None) -> Array:
    """``m`` with everything outside consecutive blocks of ``split`` set to zero."""
    if split is None:
        return m
    block = np.arange(m.shape[-1]) // split
    return m * (block[:, None] == block[None, :])


def damping_pair(mode: str, x: float, a: Array, g: Array) -> tuple[float, float]:
    """What is added to A's and to G's diagonal; x = lam / T."""
    if mode == "paper":
        return x, x
    pi = 1.0
    if mode == "pi":
        pi = np.sqrt((np.trace(a) / len(a)) / (np.trace(g) / len(g)))
    return np.sqrt(x) * pi, np.sqrt(x) / pi


def inverses(
    a: Array, g: Array, t: float, lam: float, mode: str, split: int | None
) -> tuple[Array, Array]:
    """(1/T) (A^ + d_A I)^-1 and (G^ + d_G I)^-1, per group."""
    out_a, out_g = [], []
    for k in range(len(a)):
        da, dg = damping_pair(mode, lam / t, a[k], g[k])
        out_a.append(np.linalg.inv(block_diagonal(a[k], split) + da * np.eye(len(a[k]))) / t)
        out_g.append(np.linalg.inv(block_diagonal(g[k], split) + dg * np.eye(len(g[k]))))
    return np.stack(out_a), np.stack(out_g)


def eigen(a: Array, g: Array) -> tuple[Array, Array, Array, Array]:
    """Eigenvalues and vectors of both factors, per group."""
    da, qa = np.linalg.eigh(a)
    dg, qg = np.linalg.eigh(g)
    return da, qa, dg, qg


def eigen_precondition(m: Array, e: tuple[Array, ...], t: float, lam: float) -> Array:
    """Qg [(Qg^T D Qa) / (T dg da^T + lam)] Qa^T."""
    da, qa, dg, qg = e
    inner = qg.transpose(0, 2, 1) @ m @ qa / (t * dg[:, :, None] * da[:, None, :] + lam)
    return qg @ inner @ qa.transpose(0, 2, 1)


def embedding_factors(layer: Embedding) -> tuple[Array, Array]:
    """Token counts / N, and the mean over looked-up rows of g g^T with g = N dL/ds."""
    n = len(getattr(layer, "lengths", layer.x))
    g = n * layer.ds.reshape(-1, layer.ds.shape[-1])
    return np.bincount(
        layer.x.reshape(-1), minlength=len(layer.p["embedding_table"])
    ) / n, g.T @ g / len(g)


def fisher_trace(
    a: Array, g: Array, t: float, lam: float, form: str, include_damping: bool
) -> float:
    """tr(F + lam I) summed over groups."""
    lam = lam if include_damping else 0.0
    total = 0.0
    for k in range(len(a)):
        ta, tg, di, do = np.trace(a[k]), np.trace(g[k]), len(a[k]), len(g[k])
        total += (
            t * (ta + lam * di) * (tg + lam * do)
            if form == "product"
            else t * ta * tg + lam * di * do
        )
    return total
