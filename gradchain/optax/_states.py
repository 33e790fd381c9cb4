"""The classes of states that Optax's transforms have: names, fields and their order."""

from typing import Any, NamedTuple


class EmptyState(NamedTuple):
    """The state of transforms that keep nothing."""


class FactoredState(NamedTuple):
    """State of ``scale_by_factored_rms``."""

    count: Any
    v_row: Any
    v_col: Any
    v: Any


class BacktrackingLinesearchInfo(NamedTuple):
    """What ``scale_by_backtracking_linesearch`` reports of its last search."""

    num_linesearch_steps: Any
    decrease_error: Any


class ScaleByBacktrackingLinesearchState(NamedTuple):
    """State of ``scale_by_backtracking_linesearch``."""

    learning_rate: Any
    value: Any
    grad: Any
    info: Any


class ZoomLinesearchInfo(NamedTuple):
    """What ``scale_by_zoom_linesearch`` reports of its last search."""

    num_linesearch_steps: Any
    decrease_error: Any
    curvature_error: Any


class ScaleByZoomLinesearchState(NamedTuple):
    """State of ``scale_by_zoom_linesearch``."""

    learning_rate: Any
    value: Any
    grad: Any
    info: Any


class LookaheadState(NamedTuple):
    """State of ``lookahead``."""

    fast_state: Any
    steps_since_sync: Any


class LookaheadParams(NamedTuple):
    """The parameters of ``lookahead``: fast and slow ones."""

    fast: Any
    slow: Any

    @classmethod
    def init_synced(cls, params: Any) -> "LookaheadParams":
        """Return a pair of the same parameters."""
        return cls(fast=params, slow=params)


class ScaleByRssState(NamedTuple):
    """State of ``scale_by_rss``."""

    sum_of_squares: Any


class ScaleByRmsState(NamedTuple):
    """State of ``scale_by_rms``."""

    nu: Any


class ScaleByRmsWithCountState(NamedTuple):
    """State of ``scale_by_rms`` with ``bias_correction=True``."""

    count: Any
    nu: Any


class ScaleByRStdDevState(NamedTuple):
    """State of ``scale_by_stddev``."""

    mu: Any
    nu: Any


class ScaleByRStdDevWithCountState(NamedTuple):
    """State of ``scale_by_stddev`` with ``bias_correction=True``."""

    count: Any
    mu: Any
    nu: Any


class ScaleByAdamState(NamedTuple):
    """State of ``scale_by_adam``."""

    count: Any
    mu: Any
    nu: Any


class ScaleByAmsgradState(NamedTuple):
    """State of ``scale_by_amsgrad``."""

    count: Any
    mu: Any
    nu: Any
    nu_max: Any


class ScaleByLionState(NamedTuple):
    """State of ``scale_by_lion``."""

    count: Any
    mu: Any


class ScaleByAdaDeltaState(NamedTuple):
    """State of ``scale_by_adadelta``."""

    e_g: Any
    e_x: Any


class ScaleByAdanState(NamedTuple):
    """State of ``scale_by_adan``."""

    m: Any
    v: Any
    n: Any
    g: Any
    t: Any


class ScaleByBeliefState(NamedTuple):
    """State of ``scale_by_belief``."""

    count: Any
    mu: Any
    nu: Any


class ScaleByRpropState(NamedTuple):
    """State of ``scale_by_rprop``."""

    step_sizes: Any
    prev_updates: Any


class ScaleByScheduleState(NamedTuple):
    """State of ``scale_by_schedule``."""

    count: Any


class ApplyEvery(NamedTuple):
    """State of ``apply_every``."""

    count: Any
    grad_acc: Any


class ScaleBySM3State(NamedTuple):
    """State of ``scale_by_sm3``."""

    mu: Any
    nu: Any


class ScaleByNovogradState(NamedTuple):
    """State of ``scale_by_novograd``."""

    count: Any
    mu: Any
    nu: Any


class ScaleByOptimisticGradientState(NamedTuple):
    """State of ``scale_by_optimistic_gradient``."""

    is_initial_step: Any
    previous_gradient: Any


class ScaleByDistanceOverGradientsState(NamedTuple):
    """State of ``scale_by_distance_over_gradients``."""

    max_dist: Any
    grad_sum_of_squares: Any
    init_params: Any


class ScaleByLBFGSState(NamedTuple):
    """State of ``scale_by_lbfgs``."""

    count: Any
    params: Any
    updates: Any
    diff_params_memory: Any
    diff_updates_memory: Any
    weights_memory: Any


class ScaleByAdemamixState(NamedTuple):
    """State of ``contrib.scale_by_ademamix``."""

    count: Any
    count_m2: Any
    m1: Any
    m2: Any
    nu: Any


class ScaleBySimplifiedAdEMAMixState(NamedTuple):
    """State of ``contrib.simplified_ademamix``."""

    t: Any
    m: Any
    n: Any


class COCOBState(NamedTuple):
    """State of ``contrib.cocob``."""

    init_particles: Any
    cumulative_gradients: Any
    scale: Any
    subgradients: Any
    reward: Any


class SplitRealAndImaginaryState(NamedTuple):
    """State of ``contrib.split_real_and_imaginary``."""

    inner_state: Any


class DAdaptAdamWState(NamedTuple):
    """State of ``contrib.dadapt_adamw``."""

    exp_avg: Any
    exp_avg_sq: Any
    grad_sum: Any
    estim_lr: Any
    numerator_weighted: Any
    count: Any


class DoGState(NamedTuple):
    """State of ``contrib.dog``."""

    is_init_step: Any
    init_params: Any
    max_dist: Any
    sum_sq_norm_grads: Any


class DoWGState(NamedTuple):
    """State of ``contrib.dowg``."""

    init_params: Any
    weighted_sq_norm_grads: Any
    estim_sq_dist: Any


class GaLoreState(NamedTuple):
    """State of ``contrib.galore``."""

    count: Any
    base_optimizer_state: Any
    projector: Any


class MadgradState(NamedTuple):
    """State of ``contrib.madgrad``."""

    count: Any
    grad_sum_sq: Any
    s: Any
    x0: Any


class MechanicState(NamedTuple):
    """State of ``contrib.mechanize``."""

    base_optimizer_state: Any
    count: Any
    r: Any
    m: Any
    v: Any
    s: Any
    x0: Any


class MomoState(NamedTuple):
    """State of ``contrib.momo``."""

    exp_avg: Any
    barf: Any
    gamma: Any
    lb: Any
    count: Any


class MomoAdamState(NamedTuple):
    """State of ``contrib.momo_adam``."""

    exp_avg: Any
    exp_avg_sq: Any
    barf: Any
    gamma: Any
    lb: Any
    count: Any


class MuonState(NamedTuple):
    """State of ``contrib.muon``."""

    count: Any
    mu: Any
    ns_coeffs: Any


class DifferentiallyPrivateAggregateState(NamedTuple):
    """State of ``contrib.differentially_private_aggregate``."""

    rng_key: Any


class ProdigyState(NamedTuple):
    """State of ``contrib.prodigy``."""

    exp_avg: Any
    exp_avg_sq: Any
    grad_sum: Any
    params0: Any
    estim_lr: Any
    numerator_weighted: Any
    count: Any


class ReduceLROnPlateauState(NamedTuple):
    """State of ``contrib.reduce_on_plateau``."""

    scale: Any
    best_value: Any
    plateau_count: Any
    cooldown_count: Any
    count: Any
    avg_value: Any


class SAMState(NamedTuple):
    """State of ``contrib.sam``."""

    steps_since_sync: Any
    opt_state: Any
    adv_state: Any
    cache: Any


class ScheduleFreeState(NamedTuple):
    """State of ``contrib.schedule_free``."""

    b1: Any
    weight_sum: Any
    step_count: Any
    max_lr: Any
    base_optimizer_state: Any
    z: Any


class HutchinsonState(NamedTuple):
    """State of ``contrib.hutchinson_estimator_diag_hessian``: a key."""

    key: Any


class SophiaState(NamedTuple):
    """State of ``contrib.sophia``."""

    count: Any
    mu: Any
    nu: Any
    hessian_fn_state: Any


class TraceState(NamedTuple):
    """State of ``trace``."""

    trace: Any


class EmaState(NamedTuple):
    """State of ``ema``."""

    count: Any
    ema: Any


class MultiStepsState(NamedTuple):
    """State of ``MultiSteps``."""

    mini_step: Any
    gradient_step: Any
    inner_opt_state: Any
    acc_grads: Any
    skip_state: Any = ()


class WeightDecaySchedule(NamedTuple):
    """State of ``add_decayed_weights`` with a schedule."""

    count: Any


class AddNoiseState(NamedTuple):
    """State of ``add_noise``."""

    count: Any
    rng_key: Any


class PartitionState(NamedTuple):
    """State of ``partition``."""

    inner_states: Any


class ConditionallyTransformState(NamedTuple):
    """State of ``conditionally_transform``."""

    inner_state: Any
    step: Any


class ConditionallyMaskState(NamedTuple):
    """State of ``conditionally_mask``."""

    step: Any
    inner_state: Any


class ApplyIfFiniteState(NamedTuple):
    """State of ``apply_if_finite``."""

    notfinite_count: Any
    last_finite: Any
    total_notfinite: Any
    inner_state: Any


class ZeroNansState(NamedTuple):
    """State of ``zero_nans``."""

    found_nan: Any


class MaskedState(NamedTuple):
    """State of ``masked``."""

    inner_state: Any


class MaskedNode(NamedTuple):
    """Stands for a parameter that a mask leaves out: a node without leaves."""


class SnapshotState(NamedTuple):
    """State of ``snapshot``."""

    measurement: Any


class MonitorState(NamedTuple):
    """State of ``monitor``."""

    measurements: Any
    measure_states: Any


class InjectHyperparamsState(NamedTuple):
    """An earlier state of ``inject_hyperparams``."""

    count: Any
    hyperparams: Any
    inner_state: Any


class InjectStatefulHyperparamsState(NamedTuple):
    """State of ``inject_hyperparams``."""

    count: Any
    hyperparams: Any
    hyperparams_states: Any
    inner_state: Any


AdaptiveGradClipState = ClipByGlobalNormState = ClipState = EmptyState
AddDecayedWeightsState = NonNegativeParamsState = NormalizeState = ScaleByTrustRatioState = ScaleState = EmptyState
MultiTransformState = PartitionState
