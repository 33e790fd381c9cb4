"""How long things take: the least time of a few rounds, libraries in turns, as far as the time allowed reaches."""

import gc as garbage
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from cases import (
    ARRAYS,
    COMPILING,
    HOST,
    OPTIMIZERS,
    SHORT,
    SIZES,
    STRUCTURES,
    WIDTHS,
    model,
)
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import gradchain as gc
from gradchain import training

LIBRARIES = {"gradchain": gc, "optax": optax}
STEPS = 10


def seconds(function, rounds=3, most=1.0):
    """Return the least time of some rounds, fewer if they take longer than ``most`` seconds together."""
    found = []
    while len(found) < rounds and (not found or sum(found) + found[-1] < most):
        garbage.collect()
        start = time.perf_counter()
        jax.block_until_ready(function())
        found.append(time.perf_counter() - start)
    return min(found)


def compiled_costs(library, tx, params, limit, known):
    """Return what a step of a transform costs; what would take longer than ``limit`` isn't compiled."""

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return library.apply_updates(params, updates), state

    grads, state = (
        jax.tree.map(jnp.copy, params),
        jax.tree.map(jnp.copy, tx.init(params)),
    )

    def lower():
        jax.clear_caches()
        return jax.jit(lambda *a: step(*a), donate_argnums=(0, 1)).lower(
            params, state, grads
        )

    costs = {"lower": seconds(lower)}
    if foreseen(known, "compile", len(jax.tree.leaves(params))) > limit:
        return costs
    lowered, start = lower(), time.perf_counter()
    compiled = lowered.compile()
    costs["compile"] = time.perf_counter() - start
    memory = compiled.memory_analysis()
    total = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
    )
    costs["memory"] = total - memory.alias_size_in_bytes
    values = params, state
    times = []
    for _ in range(STEPS):
        start = time.perf_counter()
        values = jax.block_until_ready(compiled(*values, grads))
        times.append(time.perf_counter() - start)
    costs["step"] = min(times)
    return costs


def foreseen(known, measure, size):
    """Return how long a measurement will take, from the last of its curve."""
    pairs = known.get(measure, {})
    if not pairs:
        return 0.0
    last = max(map(int, pairs))
    power = (
        1.15 if last >= 100 else 0.5
    )  # what doesn't grow is most of it, for few arrays
    return pairs[str(last)] * (size / last) ** power


def curves(makers, sizes, params_of, limit):
    """Return by library and measure the costs at each size, as far as a curve gets."""
    found = {name: {} for name in makers}
    for i, size in enumerate(sizes):
        for name in list(makers)[:: 1 if i % 2 else -1]:
            known = found[name]
            if foreseen(known, "lower", size) > limit:
                continue
            costs = compiled_costs(
                LIBRARIES[name], makers[name](size), params_of(size), limit, known
            )
            for measure, cost in costs.items():
                known.setdefault(measure, {})[str(size)] = cost
    return found


def host_functions(ours, theirs, arrays, both_update):
    """Return the functions outside of compiled programs, for many arrays: ours, and Optax's where it has one."""
    params = model(arrays)
    everywhere = NamedSharding(Mesh(np.array(jax.devices()[:1]), ("data",)), P())
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), params
    )
    state, other = ours.init(params), theirs.init(params)
    entries = gc.to_state_dict(ours, state)
    optax_update = [lambda: theirs.update(params, other, params)] if both_update else []
    return {
        "init": (lambda: ours.init(params), lambda: theirs.init(params)),
        "update": (lambda: ours.update(params, state, params), *optax_update),
        "describe": (lambda: str(ours.describe(params)),),
        "to_state_dict": (lambda: gc.to_state_dict(ours, state),),
        "from_state_dict": (lambda: gc.from_state_dict(ours, params, entries),),
        "state_shardings": (lambda: gc.state_shardings(ours, shapes),),
        "hyperparams": (lambda: gc.hyperparams(ours, state),),
        "eval_params": (lambda: ours.eval_params(state, params),),
    }


def host_costs(ours, theirs, arrays, both_update):
    """Return how long functions outside of compiled programs take for many arrays, by library.

    What they compile for each shape and dtype is compiled before, for few arrays. Without ``both_update`` Optax's
    ``update`` is left out.
    """
    for pair in host_functions(ours, theirs, 2 * len(WIDTHS), both_update).values():
        for function in pair:
            jax.block_until_ready(function())
    return {
        name: {
            library: seconds(f, rounds=2)
            for library, f in zip(LIBRARIES, pair, strict=False)
        }
        for name, pair in host_functions(ours, theirs, arrays, both_update).items()
    }


def sweep_costs(numbers):
    """Return the seconds of sweeps of a small network by the number of runs, compiled before."""
    rng = np.random.default_rng(0)
    data = (rng.standard_normal((1024, 16), dtype=np.float32), rng.integers(0, 4, 1024))
    params = {"hidden": jnp.ones((16, 16)) * 0.1, "out": jnp.ones((16, 4)) * 0.1}

    def loss(params, batch):
        x, y = batch
        logits = jnp.tanh(x @ params["hidden"]) @ params["out"]
        return gc.losses.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    found = {}
    for number in numbers:
        rates = jnp.geomspace(1e-3, 1e-1, number)

        def run(rates=rates):
            return training.sweep(
                loss, params, gc.sgd(rates), data, epochs=2, batch_size=32
            ).final

        run()
        found[str(number)] = seconds(run)
    return {"gradchain": {"run": found}}


def call_costs(rounds=60, calls=30):
    """Return the seconds of a call of a compiled step, a transform of many numbers being passed or closed over."""
    params = {
        name: {"kernel": jnp.ones((64, 64)), "bias": jnp.ones(64)}
        for name in ("first", "second")
    }
    rate = gc.warmup_cosine_decay_schedule(0.0, 1e-3, 100, 1000)
    parts = {
        "first": gc.adamw(rate),
        "kernels": gc.sgd(1e-2, momentum=0.9),
        "rest": gc.lion(rate),
    }
    labels = gc.by_path([("first", "first"), ("kernel", "kernels")], default="rest")
    tx = gc.chain(gc.clip_by_global_norm(1.0), gc.partition(parts, labels))
    state, on_device = tx.init(params), jax.device_put(tx)

    def step(tx, params, state, grads):
        updates, state = tx.update(grads, state, params)
        return gc.apply_updates(params, updates), state

    passed, closed = jax.jit(step), jax.jit(lambda *arguments: step(tx, *arguments))
    functions = {
        "closed over": lambda: closed(params, state, params),
        "on the device": lambda: passed(on_device, params, state, params),
        "Python numbers": lambda: passed(tx, params, state, params),
    }
    found = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            for _ in range(calls):
                jax.block_until_ready(function())
            found[name].append((time.perf_counter() - start) / calls)
    return {"numbers": len(jax.tree.leaves(tx))} | {
        name: float(np.median(times)) for name, times in found.items()
    }


def everything(quick, limit):
    """Yield all that the page and the pictures show, as it becomes complete; ``limit`` is the longest compilation."""
    sizes = SIZES[:3] if quick else SIZES
    short = SHORT[:4] if quick else SHORT
    found = {
        "runs of a sweep": sweep_costs(short),
        "calls": call_costs(),
        "host": {},
        "arrays": {},
    }
    found["host arrays"] = sizes[-1] if quick else HOST
    for name, (ours, theirs) in OPTIMIZERS.items():
        found["host"][name] = host_costs(
            ours(), theirs(), found["host arrays"], name not in COMPILING
        )
        yield found, f"{name}, outside of compiled programs"
    for name, makers in OPTIMIZERS.items():
        both = {
            library: lambda _, make=make: make()
            for library, make in zip(LIBRARIES, makers, strict=True)
        }
        found["arrays"][name] = curves(both, sizes, model, limit)
        yield found, name
    for name, make in STRUCTURES.items():
        both = {
            library: lambda n, lib=module, make=make: make(lib, n)
            for library, module in LIBRARIES.items()
        }
        found[name] = curves(both, short, lambda _: model(ARRAYS), limit / 3)
        yield found, name
