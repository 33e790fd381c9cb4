"""Adam, and a second moment made of factors, in the eigenbases of Shampoo's factors."""

from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array

from gradchain import tree
from gradchain.core.hyper import Count, Decay, DType, NonNegative
from gradchain.core.rule import leafwise
from gradchain.core.spec import At, Slot, Slots
from gradchain.core.value import Choice, Integer
from gradchain.matrices.axes import axis_gram
from gradchain.matrices.bases import METHOD, track_basis
from gradchain.matrices.factors import gathered
from gradchain.matrices.frames import SIDES, ByAxis, Frame, FrameNumbers, frame
from gradchain.matrices.refreshing import due, refresh
from gradchain.numerics import abs_sq, bounded, divide, ema, sqrt

FACTORS = Choice("gram", "kl")
START = Choice("identity", "eigh", "skip")


def framed(param: Array, hyper: Any) -> Frame:
    """Return the frame of a parameter."""
    return frame(param.shape, hyper.weight_dimension_numbers, hyper.block_size, "")


def zero_factors(param: Array, hyper: Any) -> list[ByAxis]:
    """Return matrices of zeros for the axes of each block that have a basis."""
    own = framed(param, hyper)
    return [
        {i: axis_gram(jnp.zeros_like(x), i, own.order) for i in own.axes(x, hyper.sides, hyper.max_dim)}
        for x in own.seen.split(param)
    ]


def identities(param: Array, hyper: Any) -> list[ByAxis]:
    """Return identity matrices for the axes of each block that have a basis."""
    return jax.tree.map(lambda a: a + jnp.eye(a.shape[-1], dtype=a.dtype), zero_factors(param, hyper))


def first_eigenvalues(param: Array, hyper: Any) -> list[ByAxis]:
    """Return equal numbers along each axis of each block, if the factors are those of KL-Shampoo."""
    own = framed(param, hyper)
    axes = range(own.order) if getattr(hyper, "factors", "kl") == "kl" else ()
    return [
        {i: jnp.zeros_like(own.mean(block.real, i)) + hyper.first_eigenvalue for i in axes}
        for block in own.seen.split(param)
    ]


def followed(is_due: Any, factors: list[ByAxis], bases: list[ByAxis], ridge: Any, method: str, sort: bool) -> Any:
    """Return bases that follow the factors, if that is due."""

    def follow(a: Array, q: Array) -> Array:
        return track_basis(gathered(a), q, ridge, method=method, sort=sort)

    return refresh(is_due, lambda: jax.tree.map(follow, factors, bases), bases) if jax.tree.leaves(bases) else bases


def begun_bases(own: Frame, blocks: list[Array], slot: Slots, at: At, start: str, sort: bool) -> list[ByAxis]:
    """Return the bases of the state, or at first the eigenvectors of the first gradient's Gram matrices."""
    if start == "identity":
        return slot.bases
    grams = [{i: axis_gram(x, i, own.order) for i in q} for x, q in zip(blocks, slot.bases, strict=True)]
    return followed(at.count == 0, grams, slot.bases, 0, "eigh", sort)


def grown_factors(own: Frame, x: Array, factors: ByAxis, bases: ByAxis, values: ByAxis, decay: Any) -> ByAxis:
    """Return the factors with one more gradient, whitened along all other axes where there are eigenvalues."""

    def gram(i: int) -> Array:
        if not values:
            return axis_gram(x, i, own.order)
        white = own.divided(own.turned(x, bases, without=i), values, without=i)
        return axis_gram(white, i, own.order) * (values[i].size / max(x.size, 1))

    return {i: ema(a, gram(i), decay) for i, a in factors.items()}


def eigenvalues(own: Frame, p: Array, values: ByAxis, decay: Any, floor: Any, ridge: Any) -> ByAxis:
    """Return KL-Shampoo's eigenvalues with one more gradient, which is in terms of the bases."""

    def along(i: int, d: Array) -> Array:
        new = ema(d, own.mean(abs_sq(own.divided(p, values, without=i)), i), decay)
        return jnp.maximum(new, jnp.maximum(floor, ridge * jnp.mean(new, axis=-1, keepdims=True)))

    return {i: along(i, d) for i, d in values.items()}


def begun(own: Frame, x: Array, values: ByAxis) -> ByAxis:
    """Return eigenvalues, those that are all zero replaced by the root mean square of the gradient."""
    first = sqrt(own.mean(abs_sq(x)))[..., None]
    return {i: jnp.where(jnp.max(d, axis=-1, keepdims=True) > 0, d, first) for i, d in values.items()}


def one_where(first: Any, values: list[ByAxis]) -> list[ByAxis]:
    """Return ones at first, and later the eigenvalues."""
    return jax.tree.map(lambda d: jnp.where(first, 1, d), values)


@leafwise(
    slots={
        "mu": Slot(dtype="mu_dtype"),
        "nu": Slot(real=True, nonnegative=True),
        "factors": Slot(init=zero_factors),
        "bases": Slot(init=identities),
        "eigenvalues": Slot(init=first_eigenvalues, real=True, nonnegative=True),
    },
    debiased=("b1", "b2"),
    turn=True,
)
def scale_by_soap(
    g: Array,
    slot: Slots,
    at: At,
    b1: Decay = 0.95,
    b2: Decay = 0.95,
    eps: NonNegative = 1e-8,
    shampoo_beta: Decay = 0.95,
    update_interval: Count = 10,
    mu_dtype: DType | None = None,
    *,
    stagger: bool = False,
    factors: Annotated[str, FACTORS] = "gram",
    sides: Annotated[str, SIDES] = "both",
    block_size: Annotated[int, Integer(1)] | None = None,
    max_dim: Annotated[int, Integer(1)] = 10_000,
    weight_dimension_numbers: FrameNumbers | None = None,
    ridge: NonNegative = 1e-5,
    first_eigenvalue: NonNegative = 0.0,
    eigenvalue_floor: NonNegative = 0.0,
    debias: bool = True,
    start: Annotated[str, START] = "identity",
    current: bool = False,
    method: Annotated[str, METHOD] = "qr",
    sort: bool = True,
):
    own = frame(g.shape, weight_dimension_numbers, block_size, "scale_by_soap")
    g = bounded(g, g.size)
    blocks = own.seen.split(g)
    is_due = due(at.count, update_interval, at.turn if stagger else None)
    active = (at.count > 0) | (start != "skip")
    values = [begun(own, x, d) for x, d in zip(blocks, slot.eigenvalues, strict=True)]
    bases = begun_bases(own, blocks, slot, at, start, sort)
    grown = [
        grown_factors(own, x, a, q, d, shampoo_beta)
        for x, a, q, d in zip(blocks, slot.factors, bases, one_where(~active, values), strict=True)
    ]
    bases = followed(is_due, grown, bases, ridge, method, sort) if current else bases
    turned = [own.turned(x, q) for x, q in zip(blocks, bases, strict=True)]
    mu = jnp.where(active, ema(slot.mu, g, b1), slot.mu)
    nu = jnp.where(active, ema(slot.nu, own.seen.join([abs_sq(p) for p in turned]), b2), slot.nu)
    mu_hat, nu_hat = mu, nu
    if debias:
        ahead = -1 if start == "skip" else 0
        mu_hat, nu_hat = (x / jnp.where(active, at.weight_sum(b, ahead), 1) for x, b in ((mu, "b1"), (nu, "b2")))
    updates = [
        own.turned_back(divide(own.turned(m, q), sqrt(v) + eps, eps == 0), q)
        for m, v, q in zip(own.seen.split(mu_hat), own.seen.split(nu_hat), bases, strict=True)
    ]
    new_values = [
        eigenvalues(own, p, d, shampoo_beta, eigenvalue_floor, ridge) for p, d in zip(turned, values, strict=True)
    ]
    return jnp.where(active, own.seen.join(updates), 0), slot(
        mu=mu,
        nu=nu,
        factors=grown,
        bases=bases if current else followed(is_due, grown, bases, ridge, method, sort),
        eigenvalues=tree.where(active, new_values, slot.eigenvalues),
    )


@leafwise(
    slots={
        "mu": Slot(dtype="mu_dtype"),
        "factors": Slot(init=zero_factors),
        "bases": Slot(init=identities),
        "eigenvalues": Slot(init=first_eigenvalues, real=True, nonnegative=True),
    },
    debiased=("b1",),
    turn=True,
)
def scale_by_kl_shampoo(
    g: Array,
    slot: Slots,
    at: At,
    b1: Decay = 0.9,
    shampoo_beta: Decay = 0.98,
    eps: NonNegative = 1e-8,
    update_interval: Count = 10,
    mu_dtype: DType | None = None,
    *,
    stagger: bool = False,
    sides: Annotated[str, SIDES] = "both",
    block_size: Annotated[int, Integer(1)] | None = None,
    max_dim: Annotated[int, Integer(1)] = 10_000,
    weight_dimension_numbers: FrameNumbers | None = None,
    ridge: NonNegative = 1e-5,
    first_eigenvalue: NonNegative = 0.0,
    eigenvalue_floor: NonNegative = 0.0,
    debias: bool = True,
    start: Annotated[str, START] = "identity",
    lag: bool = False,
    method: Annotated[str, METHOD] = "qr",
    sort: bool = True,
):
    own = frame(g.shape, weight_dimension_numbers, block_size, "scale_by_kl_shampoo")
    g = bounded(g, g.size)
    blocks = own.seen.split(g)
    active = (at.count > 0) | (start != "skip")
    values = [begun(own, x, d) for x, d in zip(blocks, slot.eigenvalues, strict=True)]
    bases = begun_bases(own, blocks, slot, at, start, sort)
    factors = [
        grown_factors(own, x, a, q, d, shampoo_beta)
        for x, a, q, d in zip(blocks, slot.factors, bases, one_where(~active, values), strict=True)
    ]
    grown = [
        eigenvalues(own, own.turned(x, q), d, shampoo_beta, eigenvalue_floor, ridge)
        for x, q, d in zip(blocks, bases, values, strict=True)
    ]
    mu = jnp.where(active, ema(slot.mu, g, b1), slot.mu)
    mu_hat = mu / jnp.where(active, at.weight_sum("b1", -1 if start == "skip" else 0), 1) if debias else mu
    updates = [
        own.turned_back(own.scaled(own.turned(m, q), d, eps), q)
        for m, q, d in zip(own.seen.split(mu_hat), bases, values if lag else grown, strict=True)
    ]
    is_due = due(at.count, update_interval, at.turn if stagger else None)
    return jnp.where(active, own.seen.join(updates), 0), slot(
        mu=mu,
        factors=factors,
        bases=followed(is_due, factors, bases, ridge, method, sort),
        eigenvalues=tree.where(active, grown, slot.eigenvalues),
    )
