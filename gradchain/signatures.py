"""Public functions: signatures that read as they are written, and errors that name the argument that is meant."""

import difflib
import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any, Self, TypeVar

from jax.typing import ArrayLike, DTypeLike

F = TypeVar("F", bound=Callable[..., Any])

ALIASES: dict[str, Any] = {"ArrayLike": ArrayLike, "DTypeLike": DTypeLike}
"""Unions that signatures show by name."""

USUAL_NAMES: dict[str, list[str]] = {
    usual: ours.split()
    for usuals, ours in (
        ("lr rate lr_rate stepsize eta max_lr base_lr", "learning_rate peak_value init_value"),
        ("step_size", "learning_rate transition_steps"),
        ("wd weight_decay_rate decoupled_weight_decay l2 l1 lambda_", "weight_decay strength"),
        ("alpha", "decay learning_rate slow_step_size"),
        ("betas", "b1 b2 b3"),
        ("beta1 beta_1", "b1 decay momentum"),
        ("beta2 beta_2", "b2 decay"),
        ("beta3 beta_3", "b3"),
        ("b1 b2", "betas decay momentum"),
        ("beta", "b1 decay momentum delta"),
        ("momentum", "decay b1 beta"),
        ("weight_decay_mask decay_mask", "mask"),
        ("mask", "weight_decay_mask"),
        ("decay", "rho decay_rate weight_decay"),
        ("rho", "decay b2"),
        ("gamma", "decay_rate decay"),
        ("epsilon", "eps"),
        ("max_norm max_grad_norm clipnorm clip_norm global_clipnorm", "max_norm clipping l2_norm_clip"),
        ("clipvalue clip_value max_value min_value", "max_delta"),
        ("nesterovs use_nesterov", "nesterov"),
        ("steps num_steps total_steps max_steps T_max", "decay_steps transition_steps steps every epochs"),
        ("warmup num_warmup_steps warmup_length", "warmup_steps"),
        ("eta_min min_lr end_lr final_lr final_value end_learning_rate", "end_value alpha"),
        ("start_lr init_lr initial_value start_value initial_learning_rate start_factor", "init_value"),
        ("peak_lr peak_learning_rate warmup_target", "peak_value"),
        ("milestones", "boundaries boundaries_and_scales"),
        ("accumulation_steps gradient_accumulation_steps every_k_schedule k n", "every sync_period"),
        ("optimizer opt transform transformation optim factory", "tx inner optimizer fast_optimizer inner_factory"),
        ("input output outputs y_pred preds pred x", "predictions logits predictor_outputs data batch"),
        ("target y_true label y", "targets labels"),
        ("labels", "param_labels targets mask freeze_mask"),
        ("tx inner base_optimizer inner_optimizer", "tx inner optimizer fast_optimizer inner_factory"),
        ("min_delta", "tolerance"),
        ("monitor metric", "select monitor"),
        ("num_epochs nb_epoch max_epochs n_epochs", "epochs"),
        ("bs batchsize", "batch_size"),
        ("validation_data val_data eval_data test_data", "validation"),
        ("callbacks callback on_epoch_end", "on_epoch"),
        ("verbose", "progress"),
        ("custom_objects registry factories", "constructors"),
        ("seed rng key random_state rng_key prng_key", "key seed rng_key random_seed"),
        ("loss loss_function criterion fun fn f", "loss_fn function"),
        ("model weights parameters variables", "params"),
        ("params", "param"),
        ("train_data dataset dataloader loader", "data batch"),
    )
    for usual in usuals.split()
}
"""What other libraries call an argument, and what it is called here: the first of these that a function has is meant.
"""

REMARKS: dict[str, str] = {
    usual: remark
    for usuals, remark in (
        (
            "params parameters model weights variables",
            "parameters are given to tx.init(params) and tx.update(grads, state, params)",
        ),
        (
            "weight_decay wd l2 decoupled_weight_decay",
            "weight decay is adamw, or a stage of its own: chain(add_decayed_weights(1e-4), ...)",
        ),
        ("decay lr_decay", "a learning rate that decays is a schedule: learning_rate=exponential_decay(...)"),
        (
            "clipnorm global_clipnorm clip_norm max_norm max_grad_norm",
            "clipping is a stage of its own: chain(clip_by_global_norm(1.0), ...)",
        ),
        ("patience monitor", "early stopping is early_stopping=EarlyStopping(patience=3, monitor=...)"),
        ("clipvalue clip_value", "clipping is a stage of its own: chain(clip(1.0), ...)"),
        ("use_ema ema_momentum ema", "averaged weights are average_params(tx, decay)"),
        (
            "gradient_accumulation_steps accumulation_steps every_k_schedule",
            "accumulation is a transform around this one: accumulate(tx, every)",
        ),
        ("loss_scale_factor", "loss scaling is a transform around this one: loss_scale(tx)"),
        ("amsgrad", "it is an optimizer of its own: amsgrad(learning_rate)"),
        ("maximize", "updates descend; for ascent, hand over the gradients of the negative objective"),
        ("fused foreach capturable differentiable jit_compile", "jax.jit compiles the whole step; nothing to set"),
        (
            "reduction size_average reduce",
            "the result has a loss for each example: take its mean",
        ),
        ("from_logits", "whether it takes logits or probabilities is in its docstring"),
        ("label_smoothing", "smooth the labels themselves: smooth_labels(labels, alpha)"),
        ("ignore_index", "leave examples out of the mean: jnp.mean(losses, where=labels != ignored)"),
    )
    for usual in usuals.split()
}
"""What to write instead of an argument that a function doesn't have by any name."""


FUNCTION_NAMES: dict[str, str] = {
    usual: ours
    for usuals, ours in (
        ("multi_transform", "partition"),
        ("MultiSteps GradientAccumulation", "accumulate"),
        ("clip_grad_norm_ clip_grad_norm clip_by_norm", "clip_by_global_norm"),
        ("clip_grad_value_ clip_grad_value clip_by_value", "clip"),
        ("StepLR ExponentialLR ExponentialDecay", "exponential_decay"),
        ("LinearLR", "linear_schedule"),
        ("PolynomialLR PolynomialDecay", "polynomial_schedule"),
        ("CosineAnnealingLR CosineDecay", "cosine_decay_schedule"),
        ("CosineAnnealingWarmRestarts CosineDecayRestarts", "sgdr_schedule"),
        ("OneCycleLR", "cosine_onecycle_schedule"),
        ("MultiStepLR PiecewiseConstantDecay", "piecewise_constant_schedule"),
        ("SequentialLR ChainedScheduler", "join_schedules"),
        ("AveragedModel ExponentialMovingAverage params_ema", "average_params"),
        ("GradScaler LossScaleOptimizer", "loss_scale"),
        (
            "cross_entropy CrossEntropyLoss sparse_categorical_crossentropy SparseCategoricalCrossentropy",
            "softmax_cross_entropy_with_integer_labels",
        ),
        ("categorical_crossentropy CategoricalCrossentropy", "softmax_cross_entropy"),
        (
            "binary_cross_entropy_with_logits BCEWithLogitsLoss binary_crossentropy BinaryCrossentropy",
            "sigmoid_binary_cross_entropy",
        ),
        ("mse mse_loss MSELoss mean_squared_error MeanSquaredError", "squared_error"),
        ("smooth_l1_loss SmoothL1Loss HuberLoss Huber huber", "huber_loss"),
        ("kl_div KLDivLoss KLDivergence", "kl_divergence"),
        ("cosine_embedding_loss CosineSimilarity", "cosine_similarity"),
    )
    for usual in usuals.split()
}
"""What other libraries call a function, and what it is called here."""


def no_attribute(module: str, name: str, known: Iterable[str]) -> AttributeError:
    """Return the error for a name that a module doesn't have, with the one that is meant."""
    known = list(known)
    usual = FUNCTION_NAMES.get(name)
    close = [usual] if usual in known else difflib.get_close_matches(name.lower(), known, 1, 0.75)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return AttributeError(f"module {module!r} has no attribute {name!r}{hint}")


def meant(name: str, known: Iterable[str]) -> list[str]:
    """Return which of the ``known`` names somebody means by ``name``: what else it is called, or how it is spelt.

    Example:
      >>> meant("lr", ["learning_rate", "momentum"])
      ['learning_rate']
      >>> meant("betas", ["b1", "b2", "eps"])
      ['b1', 'b2']
      >>> meant("nestrov", ["nesterov"])
      ['nesterov']
    """
    known = list(known)
    usual = [other for other in USUAL_NAMES.get(name, ()) if other in known]
    if usual:
        return usual if name == "betas" else usual[:1]
    return difflib.get_close_matches(name, known, 1, 0.75)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a question for the end of an error message, or nothing."""
    return f"; did you mean {' and '.join(map(repr, found))}?" if (found := meant(name, known)) else ""


def unknown_argument(where: str, name: str, signature: inspect.Signature) -> TypeError:
    """Return the error for a keyword that a function doesn't have."""
    known = signature.parameters
    hint = did_you_mean(name, known)
    if name in REMARKS and not {*USUAL_NAMES.get(name, ())} & {*known}:
        hint = f"; {REMARKS[name]}"
    return TypeError(f"{where} has no argument {name!r}{hint or f'; its signature is {where}{signature}'}")


def check_keywords(where: str, names: Iterable[str], signature: inspect.Signature) -> None:
    """Raise ``TypeError`` for the first of ``names`` that isn't an argument."""
    if any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
        return
    for name in names:
        if name not in signature.parameters:
            raise unknown_argument(where, name, signature)


def brief(value: Any) -> str:
    """Return a value's repr for an error message: a function by its name, anything long cut off."""
    if callable(value) and (name := getattr(value, "__name__", "")):
        return f"the {'class' if isinstance(value, type) else 'function'} {name}"
    text = re.sub(r"\s+", " ", repr(value))
    return text if len(text) <= 200 else f"{text[:200]}..."


def public(function: F) -> F:
    """Give a function or class a readable signature, and errors that name the argument that is meant.

    (A decorator.) Types and pickling stay as they are.
    """
    if isinstance(function, type):
        cls: Any = function
        constructor = "__init__" if "__init__" in vars(cls) else "__new__"
        own = getattr(cls, constructor)
        if own is object.__new__:  # a class whose objects are made without arguments, and subclasses as they like
            return function  # pyright: ignore[reportReturnType]
        _, *parameters = inspect.signature(own).parameters.values()
        cls.__signature__ = readable(inspect.Signature(parameters))
        setattr(cls, constructor, _checked(own, cls.__name__, cls.__signature__))
        return function  # pyright: ignore[reportReturnType]
    signature = readable(inspect.signature(function))
    result: Any = _checked(function, function.__name__, signature)
    result.__signature__ = signature
    result.is_public = True
    return result


def _checked(function: Callable[..., Any], name: str, signature: inspect.Signature) -> Callable[..., Any]:
    """Return a function that looks at the names of its keywords first."""
    names = frozenset(signature.parameters)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if kwargs and not names.issuperset(kwargs):
            check_keywords(name, kwargs, signature)
        return function(*args, **kwargs)

    return call


def is_public(function: Any) -> bool:
    """Return whether a function is one of gradchain's own."""
    return getattr(function, "is_public", False) is True


class Label(str):
    """A type's name as shown in signatures, without quotes."""

    def __new__(cls, annotation: Any) -> Self:
        return super().__new__(cls, annotation if isinstance(annotation, str) else spell(annotation))

    __repr__ = str.__str__


class Shown(inspect.Parameter):
    """A parameter that shows a function, class or module as its default by name."""

    def __str__(self) -> str:
        text = re.sub(r"<module '([\w.]+)'[^>]*>", r"\1", super().__str__())
        return re.sub(r"<(?:function|class) '?(?:[\w.]*\.)?(\w+)'?(?: at 0x\w+)?>", r"\1", text)


def readable(signature: inspect.Signature) -> inspect.Signature:
    """Return a signature with annotations as somebody would write them."""

    def shown(p: inspect.Parameter) -> inspect.Parameter:
        annotation = p.annotation if p.annotation is p.empty else Label(p.annotation)
        return Shown(p.name, p.kind, default=p.default, annotation=annotation)

    made = signature.return_annotation
    made = made if made is signature.empty else Label(made)
    return inspect.Signature([shown(p) for p in signature.parameters.values()], return_annotation=made)


def spell(annotation: Any) -> str:
    """Return an annotation as somebody would write it: no modules, unions with ``|``, kinds of numbers by name."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return repr(annotation.__metadata__[0])
    if origin in (typing.Union, types.UnionType):
        return _spell_union(arguments)
    if origin is typing.Literal:
        return " | ".join(map(repr, arguments))
    if annotation is type(None) or annotation is None:
        return "None"
    if annotation is Ellipsis:
        return "..."
    if isinstance(annotation, list):
        return f"[{', '.join(map(spell, typing.cast(list[Any], annotation)))}]"
    name = getattr(origin or annotation, "__name__", None) or str(annotation)
    name = name.rpartition(".")[2]
    return f"{name}[{', '.join(map(spell, arguments))}]" if arguments else name


def _spell_union(arguments: tuple[Any, ...]) -> str:
    rest, names = [*arguments], list[str]()
    for name, alias in ALIASES.items():
        options = [x for x in typing.get_args(alias) if x is not type(None)]
        if all(x in rest for x in options):
            names.append(name)
            rest = [x for x in rest if x not in options]
    return " | ".join(names + [spell(x) for x in rest])
