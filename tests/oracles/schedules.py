"""Each schedule a second time, in plain Python double precision, as a case distinction written from its formula."""

import itertools
import math
from collections.abc import Mapping, Sequence


def constant_schedule(k, value):
    return value


def linear_schedule(k, init_value, end_value, transition_steps, transition_begin=0):
    return polynomial_schedule(k, init_value, end_value, 1, transition_steps, transition_begin)


def polynomial_schedule(k, init_value, end_value, power, transition_steps, transition_begin=0):
    if k <= transition_begin or transition_steps == 0:
        return init_value
    if k >= transition_begin + transition_steps:
        return end_value
    x = (k - transition_begin) / transition_steps
    return end_value + (init_value - end_value) * (1 - x) ** power


def exponential_decay(k, init_value, transition_steps, decay_rate, transition_begin=0, staircase=False, end_value=None):
    x = max(k - transition_begin, 0) / transition_steps if transition_steps else 0
    value = init_value * decay_rate ** (math.floor(x) if staircase else x)
    if end_value is None:
        return value
    return max(value, end_value) if decay_rate < 1 else min(value, end_value)


def cosine_decay_schedule(k, init_value, decay_steps, alpha=0.0, exponent=1.0):
    if k >= decay_steps:
        return alpha * init_value
    wave = (1 + math.cos(math.pi * k / decay_steps)) / 2
    return init_value * (alpha + (1 - alpha) * wave**exponent)


def inverse_sqrt_schedule(k, init_value, peak_value, warmup_steps, timescale=None):
    if k < warmup_steps:
        return init_value + (peak_value - init_value) * k / warmup_steps
    return peak_value / math.sqrt(1 + (k - warmup_steps) / (timescale or max(warmup_steps, 1)))


def _product(init_value, table: Mapping[float, float] | None):
    """The values after each boundary, as (boundary, value), the first being (0, init_value)."""
    points = [(0, init_value)]
    for boundary, scale in sorted((table or {}).items()):
        points.append((boundary, points[-1][1] * scale))
    return points


def piecewise_constant_schedule(k, init_value, boundaries_and_scales=None):
    return [value for boundary, value in _product(init_value, boundaries_and_scales) if boundary <= k][-1]


def piecewise_interpolate_schedule(k, interpolate_type, init_value, boundaries_and_scales=None):
    return _through(k, _product(init_value, boundaries_and_scales), interpolate_type)


def _through(k, points: Sequence[tuple[float, float]], interpolate_type):
    for (begin, start), (end, stop) in itertools.pairwise(points):
        if begin <= k < end:
            x = (k - begin) / (end - begin)
            return stop + (start - stop) * (1 - x if interpolate_type == "linear" else (1 + math.cos(math.pi * x)) / 2)
    return points[-1][1]


def warmup_constant_schedule(k, init_value, peak_value, warmup_steps):
    return init_value + (peak_value - init_value) * k / warmup_steps if k < warmup_steps else peak_value


def warmup_cosine_decay_schedule(k, init_value, peak_value, warmup_steps, decay_steps, end_value=0.0, exponent=1.0):
    if k < warmup_steps:
        return init_value + (peak_value - init_value) * k / warmup_steps
    if k >= decay_steps:
        return end_value
    wave = (1 + math.cos(math.pi * (k - warmup_steps) / (decay_steps - warmup_steps))) / 2
    return end_value + (peak_value - end_value) * wave**exponent


def warmup_exponential_decay_schedule(k, init_value, peak_value, warmup_steps, *args, **kwargs):
    if k < warmup_steps:
        return init_value + (peak_value - init_value) * k / warmup_steps
    return exponential_decay(k - warmup_steps, peak_value, *args, **kwargs)


def warmup_stable_decay_schedule(
    k, init_value, peak_value, warmup_steps, stable_steps, decay_steps, end_value=0.0, decay_type="linear", exponent=1.0
):
    begin = warmup_steps + stable_steps
    if k < warmup_steps:
        return init_value + (peak_value - init_value) * k / warmup_steps
    if k < begin:
        return peak_value
    if k >= begin + decay_steps:
        return end_value
    x = (k - begin) / decay_steps
    left = {"linear": 1 - x, "cosine": (1 + math.cos(math.pi * x)) / 2, "1-sqrt": 1 - math.sqrt(x)}[decay_type]
    return end_value + (peak_value - end_value) * left**exponent


def fast_slow_decay_schedule(
    k, init_value, peak_value, knee_value, warmup_steps, stable_steps, fast_steps, slow_steps, end_value=0.0, power=0.6
):
    fall, knee = warmup_steps + stable_steps, warmup_steps + stable_steps + fast_steps
    if k < warmup_steps:
        return init_value + (peak_value - init_value) * k / warmup_steps
    if k < fall:
        return peak_value
    if k < knee:
        return peak_value + (knee_value - peak_value) * ((k - fall) / fast_steps) ** power
    return knee_value + (end_value - knee_value) * min((k - knee) / slow_steps, 1)


def linear_half_life_schedule(k, init_value, end_value, transition_steps, transition_begin=0.0):
    x = min(max((k - transition_begin) / transition_steps, 0), 1)
    half_life = (1 - x) * math.log(0.5, init_value) + x * math.log(0.5, end_value)
    return 0.5 ** (1 / half_life)


def linear_onecycle_schedule(
    k, transition_steps, peak_value, pct_start=0.3, pct_final=0.85, div_factor=25.0, final_div_factor=1e4
):
    low = peak_value / div_factor
    points = [
        (0, low),
        (int(pct_start * transition_steps), peak_value),
        (int(pct_final * transition_steps), low),
        (transition_steps, low / final_div_factor),
    ]
    return _through(k, points, "linear")


def cosine_onecycle_schedule(k, transition_steps, peak_value, pct_start=0.3, div_factor=25.0, final_div_factor=1e4):
    low = peak_value / div_factor
    points = [
        (0, low),
        (int(pct_start * transition_steps), peak_value),
        (transition_steps, low / final_div_factor),
    ]
    return _through(k, points, "cosine")


def sgdr_schedule(k, cosine_kwargs):
    start = 0
    for cycle in cosine_kwargs[:-1]:
        if k < start + cycle["decay_steps"]:
            return warmup_cosine_decay_schedule(k - start, **cycle)
        start += cycle["decay_steps"]
    return warmup_cosine_decay_schedule(k - start, **cosine_kwargs[-1])
