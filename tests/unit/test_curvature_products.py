"""Products of the Hessian and of the generalised Gauss-Newton matrix with a vector, against the matrices themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import gradchain as gc
from tests.trees import Pair, assert_close

PARAMS = {"a": np.array([0.5, -1.0]), "b": Pair(np.array(0.25), None)}
V = {"a": np.array([1.0, 2.0]), "b": Pair(np.array(-1.0), None)}


def model(w):
    return {"x": jnp.tanh(w["a"] * w["b"].first), "y": w["a"].sum() ** 2}


def outer(z):
    return jnp.sum(jnp.exp(z["x"])) + z["y"] ** 4


def flat(tree):
    return ravel_pytree(tree)[0]


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_hvp_is_the_hessian_times_the_vector():
    params = jax.tree.map(jnp.asarray, PARAMS)
    vector, unravel = ravel_pytree(params)
    matrix = jax.hessian(lambda w: outer(model(unravel(w))))(vector)
    product = gc.hvp(lambda w: outer(model(w)), params, V)
    assert_close(product, unravel(matrix @ flat(V)), 1e-12)


@pytest.mark.usefixtures("x64")
def test_ggn_product_is_the_matrix_of_jacobians_around_the_outer_hessian_times_the_vector():
    params = jax.tree.map(jnp.asarray, PARAMS)
    vector, unravel = ravel_pytree(params)
    outputs, shape = ravel_pytree(model(params))
    jacobian = jax.jacobian(lambda w: flat(model(unravel(w))))(vector)
    curvature = jax.hessian(lambda z: outer(shape(z)))(outputs)
    product = gc.ggn_product(model, outer, params, V)
    assert_close(product, unravel(jacobian.T @ curvature @ jacobian @ flat(V)), 1e-12)


def parts(z):
    return jnp.stack([z.real, z.imag])


def whole(x):
    return jax.lax.complex(x[0], x[1])


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_products_with_complex_numbers_are_those_of_their_real_and_imaginary_parts():
    w, v = jnp.array([1 + 2j, 0.5 - 1j]), jnp.array([0.3 + 0.1j, -0.2 + 0.7j])

    def model(w):
        return jnp.stack([w[0] * w[1], jnp.conj(w[0]) ** 2 * w[1]])

    def outer(z):
        return jnp.sum(jnp.abs(z) ** 2) ** 1.5 + jnp.real(z[0] * z[1] ** 2)

    by_parts = gc.hvp(lambda x: outer(model(whole(x))), parts(w), parts(v))
    assert_close(gc.hvp(lambda w: outer(model(w)), w, v), whole(by_parts), 1e-12)
    by_parts = gc.ggn_product(lambda x: parts(model(whole(x))), lambda z: outer(whole(z)), parts(w), parts(v))
    assert_close(gc.ggn_product(model, outer, w, v), whole(by_parts), 1e-12)


@pytest.mark.parametrize(
    "product", [lambda w, v: gc.hvp(total, w, v), lambda w, v: gc.ggn_product(lambda w: w, total, w, v)]
)
def test_products_say_what_does_not_fit(product):
    w = {"a": jnp.ones(2)}
    with pytest.raises(ValueError, match=r"params has \['a'\], which v lacks"):
        product(w, {"b": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"\['a'\] has shape \(3,\) in v but \(2,\) in params"):
        product(w, {"a": jnp.ones(3)})
    with pytest.raises(TypeError, match=r"v \['a'\] is complex64 and can't become float32"):
        product(w, {"a": jnp.ones(2) * 1j})
    with pytest.raises(TypeError, match=r"params \['a'\] is an array of shape \(2,\) of int32"):
        product({"a": jnp.ones(2, int)}, w)


def total(w):
    return jnp.sum(w["a"])


def test_products_want_one_real_number():
    w = jnp.ones(2)
    with pytest.raises(ValueError, match=r"hvp: the result of fun must be one number, got shape \(2,\)"):
        gc.hvp(lambda w: w, w, w)
    with pytest.raises(ValueError, match=r"the result of outer must be one number, got shape \(2,\)"):
        gc.ggn_product(lambda w: w, lambda z: z, w, w)
    with pytest.raises(TypeError, match="hvp: the result of fun must be one real number, got complex64"):
        gc.hvp(lambda w: w[0] * 1j, w, w)
