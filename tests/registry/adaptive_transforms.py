"""Adam's relatives and those that look at signs."""

import optax

import gradchain as gc
from tests import oracles
from tests.registry.row import HALF_MOMENT, Row, twin

ADAPTIVE = [
    twin("scale_by_adadelta", oracles.adadelta, optax_complex=False, smooth=False),
    twin("scale_by_adadelta", lambda: oracles.adadelta(0.95, 1e-3), "eps", 0.95, 1e-3, optax_complex=False),
    Row("scale_by_rss", gc.scale_by_rss, oracles.rss, optax.scale_by_rss),
    Row(
        "scale_by_rss_from_zero",
        lambda: gc.scale_by_rss(0.0, eps=1e-5),
        lambda: oracles.rss(0.0, 1e-5),
        lambda: optax.scale_by_rss(0.0, eps=1e-5),
    ),
    Row("scale_by_rms", gc.scale_by_rms, oracles.rms, optax.scale_by_rms),
    Row(
        "scale_by_rms_eps_outside",
        lambda: gc.scale_by_rms(0.99, eps=1e-3, eps_in_sqrt=False),
        lambda: oracles.rms(0.99, 1e-3, inside=False),
        lambda: optax.scale_by_rms(0.99, eps=1e-3, eps_in_sqrt=False),
    ),
    Row(
        "scale_by_rms_debiased",
        lambda: gc.scale_by_rms(0.99, initial_scale=0.5, bias_correction=True),
        lambda: oracles.rms(0.99, initial=0.5, debias=True),
        lambda: optax.scale_by_rms(0.99, initial_scale=0.5, bias_correction=True),
    ),
    Row(
        "scale_by_stddev",
        gc.scale_by_stddev,
        lambda: oracles.rms(centered=True),
        optax.scale_by_stddev,
    ),
    Row(
        "scale_by_stddev_eps_outside",
        lambda: gc.scale_by_stddev(0.95, eps=1e-3, initial_scale=1.0, eps_in_sqrt=False),
        lambda: oracles.rms(0.95, 1e-3, initial=1.0, inside=False, centered=True),
        lambda: optax.scale_by_stddev(0.95, eps=1e-3, initial_scale=1.0, eps_in_sqrt=False),
    ),
    Row(
        "scale_by_stddev_debiased",
        lambda: gc.scale_by_stddev(0.95, eps=1e-3, initial_scale=1.0, bias_correction=True),
        lambda: oracles.rms(0.95, 1e-3, initial=1.0, debias=True, centered=True),
        lambda: optax.scale_by_stddev(0.95, eps=1e-3, initial_scale=1.0, bias_correction=True),
        steep=True,  # a variance is a difference
    ),
    Row("scale_by_adam", gc.scale_by_adam, oracles.adam, optax.scale_by_adam),
    Row(
        "scale_by_adam_eps_root",
        lambda: gc.scale_by_adam(0.8, 0.99, 1e-3, 1e-2),
        lambda: oracles.adam(0.8, 0.99, 1e-3, 1e-2),
        lambda: optax.scale_by_adam(0.8, 0.99, 1e-3, 1e-2),
    ),
    Row(
        "scale_by_adam_nesterov",
        lambda: gc.scale_by_adam(nesterov=True),
        lambda: oracles.adam(nesterov=True),
        lambda: optax.scale_by_adam(nesterov=True),
    ),
    Row("scale_by_adam_half", lambda: gc.scale_by_adam(mu_dtype="bfloat16"), smooth=False, excludes=HALF_MOMENT),
]

VARIANTS = [
    twin("scale_by_adamax", oracles.adamax),
    twin("scale_by_adamax", lambda: oracles.adamax(0.8, 0.9, 0.01), "eps", 0.8, 0.9, 0.01),
    twin("scale_by_amsgrad", oracles.amsgrad),
    twin(
        "scale_by_amsgrad",
        lambda: oracles.amsgrad(0.8, 0.9, 1e-3, 1e-2, debias_m=False, debias_v=False),
        "uncorrected",
        *(0.8, 0.9, 1e-3, 1e-2, None, False, False),
    ),
    Row("scale_by_amsgrad_half", lambda: gc.scale_by_amsgrad(mu_dtype="bfloat16"), smooth=False, excludes=HALF_MOMENT),
    twin("scale_by_belief", oracles.belief),
    twin("scale_by_belief", lambda: oracles.belief(0.8, 0.9, 1e-3, 1e-4), "eps", 0.8, 0.9, 1e-3, 1e-4),
    twin("scale_by_belief", lambda: oracles.belief(nesterov=True), "nesterov", kwargs={"nesterov": True}),
    twin("scale_by_yogi", oracles.yogi),
    twin("scale_by_yogi", lambda: oracles.yogi(0.8, 0.9, 1e-2, 1e-3, 0.1), "eps", 0.8, 0.9, 1e-2, 1e-3, 0.1),
    twin("scale_by_radam", oracles.radam),
    twin("scale_by_radam", lambda: oracles.radam(0.8, 0.9, 1e-3, 1e-2, 4.5), "eps", 0.8, 0.9, 1e-3, 1e-2, 4.5),
    twin("scale_by_radam", lambda: oracles.radam(b2=0.5), "never", kwargs={"b2": 0.5}),
    twin(
        "scale_by_radam",
        lambda: oracles.radam(b2=0.9, nesterov=True),
        "nesterov",
        kwargs={"b2": 0.9, "nesterov": True},
    ),
    twin("scale_by_adan", oracles.adan),
    twin("scale_by_adan", lambda: oracles.adan(0.9, 0.8, 0.95, 1e-3, 1e-2), "eps", 0.9, 0.8, 0.95, 1e-3, 1e-2),
]

SIGNS = [
    twin("scale_by_lion", oracles.lion, steep=True),
    twin("scale_by_lion", lambda: oracles.lion(0.8, 0.95), "decays", 0.8, 0.95, steep=True),
    twin(
        "scale_by_lion",
        lambda: oracles.lion(mode="smooth", steepness=2.0),
        "smooth",
        kwargs={"mode": "smooth", "smooth_beta": 2.0},
        optax_complex=False,
    ),
    twin("scale_by_lion", lambda: oracles.lion(mode="refined"), "refined", kwargs={"mode": "refined"}),
    Row("scale_by_lion_half", lambda: gc.scale_by_lion(mu_dtype="bfloat16"), smooth=False, excludes=HALF_MOMENT),
    Row("scale_by_rprop", lambda: gc.scale_by_rprop(0.1), lambda: oracles.rprop(0.1)),
    Row(
        "scale_by_rprop_bounds",
        lambda: gc.scale_by_rprop(0.1, 0.3, 1.5, 0.02, 0.2),
        lambda: oracles.rprop(0.1, 0.3, 1.5, 0.02, 0.2),
    ),
]
