"""What readers search for, and the page that they mean: these phrases become entries of the index.

Sphinx's search puts a page with a main entry of the index first, before all that merely contain the words.
"""

WORDS = {
    "quickstart": "getting started, install, first steps, example",
    "tutorial": "gradient descent, momentum, learn gradchain, introduction",
    "tutorial_network": (
        "clip gradients, gradient clipping, clip by norm, mini-batches, train a network"
    ),
    "tutorial_values": (
        "vmap learning rates, vmap over optimizers, many learning rates, learn the "
        "learning rate, hypergradient, seeds"
    ),
    "coming_from_optax": (
        "migrate from optax, switch from optax, optax to gradchain, difference from "
        "optax"
    ),
    "coming_from_torch": "pytorch, torch.optim, migrate from pytorch, zero_grad",
    "coming_from_keras": "keras, tensorflow, callbacks",
    "optax_names": "optax names, optax equivalent, optax function",
    "fit_a_curve": "curve fitting, curve_fit, nonlinear least squares, regression",
    "howto/flax_linen": (
        "flax, linen, trainstate, batch_stats, batchnorm, batch norm, model state, "
        "mutable state, running statistics, update_bn"
    ),
    "howto/flax_nnx": "nnx, nnx.optimizer, nnx module, rngs",
    "howto/equinox": "equinox, eqx, make_with_state, inference_mode",
    "howto/haiku": "haiku, dm-haiku, transform_with_state",
    "howto/find_a_learning_rate": (
        "learning rate finder, lr finder, find learning rate, range test, which "
        "learning rate, tune the learning rate, grid search"
    ),
    "howto/log_the_learning_rate": (
        "print learning rate, get learning rate, current learning rate, log learning "
        "rate"
    ),
    "howto/freeze_layers": (
        "freeze layers, frozen parameters, fine-tuning, finetune, transfer learning, "
        "unfreeze"
    ),
    "howto/accumulate_gradients": (
        "gradient accumulation, accumulate gradients, multisteps, large batch, micro- "
        "batch, out of memory"
    ),
    "howto/resume": (
        "resume, resume training, continue training, restart training, save and load, "
        "save optimizer state"
    ),
    "howto/debug_a_nan": (
        "nan, nan loss, nan gradients, infinite loss, inf, loss is nan, exploding "
        "gradients"
    ),
    "write_a_transform": (
        "custom optimizer, own optimizer, custom transform, write an optimizer, new "
        "optimizer"
    ),
    "write_a_matrix_rule": "custom matrix rule, inverse roots, newton-schulz",
    "write_a_combinator": "combinator, custom combinator, wrapper, wrap an optimizer",
    "faq": ("questions, faq, half-precision training"),
    "glossary": "terms, slot, stage, rule, round",
    "is_it_working": (
        "loss not decreasing, loss doesn't fall, overfitting, loss curve, not "
        "learning, diverges"
    ),
    "which_optimizer": (
        "best optimizer, choose an optimizer, compare optimizers, recommended "
        "optimizer, benchmark"
    ),
    "minimise": (
        "minimize, scipy.optimize, l-bfgs, lbfgs, bfgs, line search, conjugate "
        "gradient, constraints"
    ),
    "second_order": (
        "newton, hessian, gauss-newton, natural gradient, second-order, curvature"
    ),
    "hyperparameters": (
        "change learning rate, set learning rate, inject_hyperparams, schedule, "
        "warmup cosine schedule, warmup cosine, cosine decay, learning rate schedule"
    ),
    "training_loop": ("training loop, fit, early stopping, validation, epochs"),
    "performance": "slow, speed, recompilation, compile time, donate buffers",
    "routing": (
        "weight decay mask, mask, parameter groups, different learning rates, "
        "multi_transform, exclude bias"
    ),
    "layers_and_matrices": (
        "orthogonalisation, hidden matrices, stacked layers, low-rank"
    ),
    "width_transfer": (
        "mup, width, width transfer, learning rate transfer, learning-rate transfer, "
        "hyperparameter transfer, maximal update parametrisation, maximal update "
        "parametrization, coordinate check, layer-wise, layer-wise learning rate, "
        "layer-wise learning rates, learning rates by layer, depth"
    ),
    "recipes": (
        "recipes, hyperball, nanogpt, modded-nanogpt, speedrun, record, soap-muon, "
        "kl-soap"
    ),
    "optimizers/soap": "soap",
    "optimizers/schedule_free_plus_adamw": "schedule-free+, schedule free+",
    "sharding": (
        "sharding, multiple gpus, multi-gpu, distributed, data parallel, zero, fsdp, "
        "pmap, tpu"
    ),
    "data": (
        "dataloader, data loader, grain, tf.data, generator, batches, dataset, "
        "memory-mapped, memmap, steps_per_call, prefetch, double buffering"
    ),
    "checkpoints": "checkpoint, checkpoints, orbax, save a run, restore",
    "populations": (
        "hyperparameter search, hyperparameter tuning, hyperband, successive halving, "
        "population based training, random search"
    ),
    "averaging": (
        "ema, ema of weights, exponential moving average, polyak averaging, swa, "
        "lookahead, schedule-free"
    ),
    "state_and_config": "serialize, state dict, config, json, load torch state",
    "accumulation_and_guards": "guards, skip step, gradient norm, monitor",
    "precision": (
        "mixed precision, autocast, amp, gradscaler, mixed_bfloat16, bfloat16, float16, "
        "half precision, 8-bit adam, 8-bit optimizer, loss scale, loss scaling, "
        "quantized state, memory"
    ),
    "design": "architecture, source code, contribute",
}


def add_entries(app, docname, source):
    """Put a page's phrases into the index, behind its title."""
    if docname in WORDS:
        phrases = ", ".join(f"! {phrase}" for phrase in WORDS[docname].split(", "))
        title, rest = source[0].split("\n", 1)
        source[0] = f"{title}\n\n```{{index}} {phrases}\n```\n{rest}"


def setup(app):
    app.connect("source-read", add_entries)
    return {"parallel_read_safe": True}
