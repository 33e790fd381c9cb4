"""Where transforms differ from Optax's on purpose: both sides pinned."""

import decimal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradchain as gc
from gradchain.transforms.adam_variants import _effective_length
from tests import trees


def updates_of(tx, gradients, params):
    """Return all updates on a list of gradients, with the parameters at rest."""
    state, results = tx.init(params), []
    for gradient in gradients:
        updates, state = tx.update(gradient, state, params)
        results.append(updates)
    return results


@pytest.mark.parametrize("b2", [0.999, 0.9, 0.5, 0.0])
def test_radams_length_is_precise_in_single_precision_where_the_difference_is_not(b2):
    steps = np.arange(1.0, 3000.0)
    limit = 2 / (1 - b2) - 1
    exact = limit - 2 * steps * b2**steps / (1 - b2**steps)
    for number in (b2, jnp.float32(b2)):
        length, end = _effective_length(number, jnp.asarray(steps, "float32"))
        error = np.max(np.abs(length / exact - 1))
        np.testing.assert_allclose(end, limit, rtol=1e-4 if number is not b2 else 1e-7)
        assert error < (1e-6 if number is b2 else 1e-4)
    t = jnp.asarray(steps, "float32")
    naive = jnp.float32(limit) - 2 * t * jnp.float32(b2) ** t / (1 - jnp.float32(b2) ** t)
    if b2 == 0.999:
        assert np.max(np.abs(naive / exact - 1)) > 1e-3


@pytest.mark.parametrize("b2", [0.999, 0.9])
def test_radams_length_is_precise_in_double_precision_on_both_sides_of_where_its_series_ends(b2, x64):
    end = round(0.6 / -np.log(b2))
    steps = [*range(1, end + 5, 1 + end // 50), end, end + 1]
    with decimal.localcontext(prec=60):
        powers = [decimal.Decimal(b2) ** t for t in steps]
        limit = 2 / (1 - decimal.Decimal(b2)) - 1
        exact = [float(limit - 2 * t * power / (1 - power)) for t, power in zip(steps, powers, strict=True)]
    length, _ = _effective_length(b2, jnp.asarray(steps, "float64"))
    np.testing.assert_allclose(length, exact, rtol=3e-13)


def test_radam_with_a_low_threshold_is_finite_here_and_nan_there():
    gradients, params = [jnp.ones(2)] * 4, jnp.ones(2)
    ours = updates_of(gc.scale_by_radam(threshold=1.5), gradients, params)
    theirs = updates_of(optax.scale_by_radam(threshold=1.5), gradients, params)
    assert np.all(np.isfinite(ours))
    assert np.any(np.isnan(theirs))


def test_rprop_returns_the_step_it_computes_and_optax_the_one_before():
    gradients = [jnp.array([2.0, -3.0]), jnp.array([1.0, -1.0]), jnp.array([1.0, 1.0]), jnp.array([1.0, 1.0])]
    ours = updates_of(gc.scale_by_rprop(0.1), gradients, jnp.zeros(2))
    theirs = updates_of(optax.scale_by_rprop(0.1), gradients, jnp.zeros(2))
    np.testing.assert_allclose(ours, [[0.1, -0.1], [0.12, -0.12], [0.144, 0.0], [0.1728, 0.06]], rtol=1e-6)
    np.testing.assert_allclose(theirs, [[0.0, 0.0], [0.1, -0.1], [0.12, 0.0], [0.144, 0.0]], rtol=1e-6)


def test_rprop_compares_signs_also_where_the_product_of_gradients_vanishes():
    tiny = jnp.full(1, 1e-30)
    second = updates_of(gc.scale_by_rprop(1e-20, min_step_size=0.0), [tiny, tiny], tiny)[1]
    np.testing.assert_allclose(second, 1.2e-20, rtol=1e-6)


def test_sm3_takes_scalars_and_complex_numbers_and_optax_does_not():
    with pytest.raises(IndexError):
        updates_of(optax.scale_by_sm3(), [jnp.ones(())], jnp.ones(()))
    with pytest.raises(ValueError, match="complex"):
        optax.scale_by_sm3().init(jnp.ones(2, "complex64"))
    for x in (jnp.ones(()), jnp.ones(2, "complex64")):
        np.testing.assert_allclose(updates_of(gc.scale_by_sm3(), [x], x)[0], 0.1 * x, rtol=1e-6)


@pytest.mark.parametrize("arguments", [(), (0.8, 0.9, 1e-3)])
def test_sm3_agrees_with_optax_on_arrays_with_axes(arguments):
    stream = trees.stream(50)
    gradients = [{n: stream[n][k] for n in ("bias", "kernel")} for k in range(50)]
    ours, theirs = (updates_of(lib.scale_by_sm3(*arguments), gradients, gradients[0]) for lib in (gc, optax))
    trees.assert_close(ours, theirs, 1e-6)


def test_novograd_has_a_derivative_at_a_zero_gradient_here_and_nan_there():
    def total(gradient, tx):
        return jnp.sum(tx.update(gradient, tx.init(gradient), jnp.ones(3))[0])

    assert np.all(np.isfinite(jax.grad(total)(jnp.zeros(3), gc.scale_by_novograd())))
    assert np.all(np.isnan(jax.grad(total)(jnp.zeros(3), optax.scale_by_novograd())))


def test_factored_rms_before_the_offset_is_finite_here_and_not_there():
    gradients, params = [jnp.full((2, 2), 3.0)] * 2, jnp.ones((2, 2))
    arguments = {"step_offset": 5}
    assert np.all(np.isfinite(updates_of(gc.scale_by_factored_rms(**arguments), gradients, params)))
    assert not np.all(np.isfinite(updates_of(optax.scale_by_factored_rms(**arguments), gradients, params)))


def test_factored_rms_starts_anew_at_an_offset_beyond_two_to_the_24():
    params, offset = jnp.ones((2, 2)), 2**24 + 1
    tx = gc.scale_by_factored_rms(step_offset=offset)
    state = tx.init(params)._replace(count=jnp.int32(offset))
    _, state = tx.update(params, state, params)
    update, _ = tx.update(3 * params, state, params)
    np.testing.assert_allclose(update, 3 / np.sqrt(1 - 2**-0.8 + 2**-0.8 * 9), rtol=1e-6)


def test_factored_rms_keeps_only_the_slots_that_an_array_needs():
    params = {"long": jnp.ones((3, 130, 200)), "short": jnp.ones((3, 127))}
    state = gc.scale_by_factored_rms().init(params)
    assert (state.v_row["long"].shape, state.v_col["long"].shape, state.v["long"]) == ((3, 130), (3, 200), None)
    assert (state.v_row["short"], state.v_col["short"], state.v["short"].shape) == (None, None, (3, 127))


def test_adaptive_clipping_is_exact_below_a_millionth_here_and_not_there():
    gradient, params = jnp.full(4, 2.5e-7), jnp.zeros(4)
    tx = gc.adaptive_grad_clip(1e-4)
    ours, theirs = tx.update(gradient, tx.init(params), params)[0], optax.adaptive_grad_clip(1e-4)
    theirs = theirs.update(gradient, theirs.init(params), params)[0]
    np.testing.assert_allclose(np.linalg.norm(ours), 1e-7, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(theirs), 0.5e-7, rtol=1e-5)


def test_adaptive_clipping_of_many_axes_asks_which():
    params = jnp.ones((2,) * 6)
    with pytest.raises(ValueError, match=r"which axes make up a unit of shape \(2, 2, 2, 2, 2, 2\)"):
        updates_of(gc.adaptive_grad_clip(0.1), [params], params)
    assert updates_of(gc.adaptive_grad_clip(0.1, axis=(0, 1)), [params], params)[0].shape == params.shape


def test_normalizing_zero_updates_without_eps_is_zero_here_and_nan_there():
    gradient = jnp.zeros(3)
    assert np.all(updates_of(gc.normalize_by_update_norm(eps=0.0), [gradient], gradient)[0] == 0)
    assert np.all(np.isnan(updates_of(optax.normalize_by_update_norm(eps=0.0), [gradient], gradient)[0]))


def test_smooth_lion_is_bounded_for_complex_numbers_here_and_has_poles_there():
    gradient = jnp.full(1, 10j * np.pi / 2, "complex64")
    arguments = {"mode": "smooth"}
    ours = updates_of(gc.scale_by_lion(**arguments), [gradient], gradient)[0]
    theirs = updates_of(optax.scale_by_lion(**arguments), [gradient], gradient)[0]
    assert abs(ours[0]) < 1
    assert abs(theirs[0]) > 1e3


def test_a_word_that_is_no_choice_lists_the_choices():
    with pytest.raises(ValueError, match="scale_by_lion: mode must be one of 'hard', 'smooth', 'refined', got 'soft'"):
        gc.scale_by_lion(mode="soft")
