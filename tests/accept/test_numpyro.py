"""NumPyro: stochastic variational inference with a gradchain transform, through ``to_optax``."""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro.infer import SVI, Trace_ELBO

import gradchain as gc
from tests.accept.problem import TOLERANCE, assert_close, assert_dtype, each_dtype, optimizer, with_float32_state

pytestmark = pytest.mark.accept

OBSERVED = jnp.asarray([1.5, 2.5, 2.0, 1.0, 3.0])


def model(dtype):
    mean = numpyro.sample("mean", dist.Normal(jnp.zeros((), dtype), jnp.ones((), dtype)))
    numpyro.sample("observed", dist.Normal(mean, jnp.ones((), dtype)), obs=OBSERVED.astype(dtype))


def guide(dtype):
    loc = numpyro.param("loc", jnp.zeros((), dtype))
    log_scale = numpyro.param("log_scale", jnp.zeros((), dtype))
    numpyro.sample("mean", dist.Normal(loc, jnp.exp(log_scale)))


def infer(tx, dtype, steps=60):
    """Run SVI; NumPyro's own loop is a ``lax.scan`` over our update."""
    svi = SVI(model, guide, tx, Trace_ELBO(num_particles=8), dtype=dtype)
    result = svi.run(jax.random.key(0), steps, progress_bar=False)
    return result.params, result.losses


@each_dtype
@pytest.mark.parametrize("wrap", [gc.to_optax, lambda tx: numpyro.optim.optax_to_numpyro(gc.to_optax(tx))])
def test_svi_infers_like_with_optax(wrap, dtype):
    params, losses = infer(wrap(optimizer(gc, 0.05)), dtype)
    want, want_losses = infer(with_float32_state(optimizer(optax, 0.05)), dtype)
    assert_dtype(params, dtype)
    assert_close(params, want, TOLERANCE[dtype])
    assert_close(losses, want_losses, TOLERANCE[dtype])


def test_svi_finds_the_posterior():
    params, _ = infer(gc.to_optax(gc.adam(0.1)), "float32", steps=500)
    assert abs(params["loc"] - OBSERVED.sum() / 6) < 0.1
    assert abs(jnp.exp(params["log_scale"]) - 6**-0.5) < 0.1


def test_the_loss_arrives_as_value():
    @gc.elementwise(extra=("value",))
    def loss_as_update(g, slot, at):
        return jnp.full_like(g, at.value)

    svi = SVI(model, guide, gc.to_optax(loss_as_update()), Trace_ELBO(), dtype="float32")
    state, loss = svi.update(svi.init(jax.random.key(0)))
    assert_close(svi.get_params(state), {"loc": loss, "log_scale": loss}, 1e-6)


def test_svi_refuses_a_transform_that_is_not_of_optax_class():
    with pytest.raises(TypeError, match=r"optax\.GradientTransformation"):
        SVI(model, guide, gc.adam(0.1), Trace_ELBO())
