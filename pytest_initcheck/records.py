"""What a probe measured and what was concluded from it: plain frozen records, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]

#: Most severe first; the order in which findings are shown.
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class Stats:
    """Statistics of one tensor, exact for magnitudes from 1e-38 to 1e38.

    Attributes:
        count: number of elements.
        mean: arithmetic mean (NaN where any element is not finite).
        std: sample standard deviation, around the mean.
        rms: root mean square, around zero. Not the same number as ``std``: for a ReLU they differ by 1.2.
        min: smallest element.
        max: largest element.
        zeros: share of elements that are exactly zero, 0 to 1; estimated from 16,384 elements of a larger tensor that is
            not all zeros.
        finite: whether every element is finite.
        variation: RMS of (y - mean of y over the samples) over RMS of y: 0 when all samples give the same
            values, about 1 when nothing is common to them; ``None`` where there is no sample dimension.
        sampled: 0 where every element was read. For large activations and gradients, the number of elements that ``mean``, ``std``,
            ``min``, ``max``, ``zeros`` and ``variation`` were estimated from; ``rms`` and ``finite`` are of all elements even then. None is
            estimated where it comes near to what a rule decides by, nor where a bound on a std is set.
    """

    count: int
    mean: float
    std: float
    rms: float
    min: float
    max: float
    zeros: float
    finite: bool
    variation: float | None = None
    sampled: int = 0


@dataclass(frozen=True, slots=True)
class Histogram:
    """How the values of one tensor are spread, in bins of equal width.

    Attributes:
        low: left end of the first bin, the smallest finite value.
        high: right end of the last bin, the largest finite value.
        counts: values in each bin; of a larger tensor 16,384 values are counted.
    """

    low: float
    high: float
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """One layer as the probe saw it: a module call that returned a floating tensor, or a functional operation.

    Attributes:
        name: unique key, in call order: ``"blocks.3.fc"``; a second call of the same module is
            ``"blocks.3.fc#2"``; a functional operation is ``"blocks.3:relu"`` (then ``"blocks.3:relu#2"``).
        module: dotted path of the module (of the module it ran in, for an operation); ``""`` is the root.
        kind: class name of the module (``"Linear"``) or name of the operation (``"relu"``).
        functional: whether this is an operation rather than a module.
        leaf: whether the module has no children that were recorded.
        index: position in call order.
        shape: shape of the output.
        dtype: dtype of the output, without ``torch.``.
        activation: statistics of the output.
        gradient: statistics of the gradient that arrived at the output; ``None`` if none did.
        input_rms: RMS of the first floating input, where it is known.
        input: statistics of that input where no gradient goes back through it: what the model itself is given.
        operation: name of the operation that the layer is (``"linear"``, ``"softmax"``), where it is a single known one.
        parameters: names of the parameters that the layer itself uses.
        followed_by: name of the nonlinearity that the output goes through next (``"relu"``, ``"tanh"``,
            ``"norm"``, ``"softmax"``, ``"none"``), where the graph shows it.
        dead_units: share of output units (channels, features) that are zero for every sample; ``None`` where unknown.
        saturated: share of elements on the flat part of the nonlinearity, where the layer has one.
        opaque: why the inside or the gradient of this layer could not be seen, or ``None``.
        histogram: how the output's values are spread, for the layers that errors and warnings name first; ``None`` for
            all others.
    """

    name: str
    module: str
    kind: str
    functional: bool
    leaf: bool
    index: int
    shape: tuple[int, ...]
    dtype: str
    activation: Stats
    gradient: Stats | None = None
    input_rms: float | None = None
    input: Stats | None = None
    operation: str | None = None
    parameters: tuple[str, ...] = ()
    followed_by: str | None = None
    dead_units: float | None = None
    saturated: float | None = None
    opaque: str | None = None
    histogram: Histogram | None = None


@dataclass(frozen=True, slots=True)
class ParameterRecord:
    """One parameter (tied weights: once, under the first of its names).

    Attributes:
        name: dotted name as in ``named_parameters``.
        layer: dotted path of the module that owns it.
        kind: class name of that module.
        shape: shape.
        dtype: dtype, without ``torch.``.
        fan_in: number of inputs that one output sums over; ``None`` for vectors and scalars.
        fan_out: number of outputs that one input feeds; ``None`` for vectors and scalars.
        value: statistics of the values, for a parametrized weight of the weight that is made of them; ``None`` where they
            cannot be read (meta tensors).
        gradient: statistics of the gradient; ``None`` if none arrived.
        requires_grad: whether it is trained.
        reached: whether the output depends on it through the autograd graph.
        followed_by: name of the nonlinearity behind the layer that uses it, as in :class:`LayerRecord`.
        factor: constant by which what it computes is multiplied before that nonlinearity (the omega of a SIREN).
        role: how the forward pass uses it: ``"weight"``, ``"bias"``, ``"norm-scale"``, ``"norm-shift"``,
            ``"embedding"``, ``"other"``.
        twin_rows: share of output units whose incoming weights equal another unit's exactly.
        aliases: other names of the same parameter.
        wakes: for a parameter whose gradient is exactly zero: whether it gets one after one optimizer step
            (``True``: it stands behind a gate; ``False``: it is dead); ``None`` where that was not asked.
        kurtosis: fourth central moment of the values over their squared variance (3 for a normal draw, 1.8 for a
            uniform one), estimated from 16,384 values of a larger parameter; ``None`` where all values are equal,
            cannot be read, or are what a parametrization makes of the parameter.
        drawn_from: the distribution that the values were drawn from and the nearest scheme with a name, in words; ``""``
            where that was not asked or cannot be read.
        origin: the same in a word or two: the scheme if it has a name, else the kind of distribution.
        pull: by how many per cent the output's scale over the samples grows where the whole parameter grows by one: 1 for a
            factor, its own size for what goes through an exponential; asked only of outputs off the unit scale.
        peak: largest magnitude of the parameter itself, where ``value`` is of what a parametrization makes of it; else ``None``.
    """

    name: str
    layer: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    fan_in: int | None
    fan_out: int | None
    value: Stats | None
    gradient: Stats | None = None
    requires_grad: bool = True
    reached: bool = True
    followed_by: str | None = None
    factor: float = 1.0
    role: str = "other"
    twin_rows: float = 0.0
    aliases: tuple[str, ...] = ()
    wakes: bool | None = None
    kurtosis: float | None = None
    drawn_from: str = ""
    origin: str = ""
    pull: float | None = None
    peak: float | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """How the function answers when it is pushed; where a question was not asked, its field is ``None`` (or empty).

    Attributes:
        movement: RMS of the centred change of the output after 1, 2, ... optimizer-sized steps.
        predicted: the first step's movement as the gradient predicts it (first order).
        alignment: correlation of the centred movement with the direction that was asked for.
        residual: share of the squared error left after a few Adam steps towards random centred targets.
        sensitivity: relative change of the output over relative change of the input.
        reach: what part of an ordinary movement the architecture is capable of, at most 1: less where few weights add up in a unit, or where
            the output differs over the samples but is small.
        mixing: relative change of the outputs of all other samples when one is exchanged, batch norms kept as they were.
        mixed_at: the first module that does this, ``""`` for the model itself; ``None`` where none does.
        mixed_by_softmax: whether a softmax runs along the samples there.
        disturbance: the relative change of the input that this was asked with: small for numbers, above 1 where samples were exchanged,
            because integers and flags cannot be changed a little, and 1 where a single sample got other numbers of the same size; 0 where
            it was read off the gradient, to first order, and so far from every bound that no pass was spent on it.
        output_rms: RMS of the output.
        output_centred_rms: RMS of the output around its mean over the samples.
        unit: scale on which changes of the output are judged: 1, but the output's own RMS for a softmax over many classes.
        sensitivity_if_smaller: the least sensitivity that smaller weights give; asked of chaotic networks alone.
        sensitivity_later: the sensitivity after the steps; asked only where the output does not follow the input.
        fit_steps: number of Adam steps that the fit took.
        token_fit: whether the fit was one of classes for the tokens of the input, whose error is a cross-entropy; where weights that come
            and go let none be asked, whether it would have been.
        with_unit_inputs: RMS of the output over the samples if the inputs had mean 0 and std 1; asked only of outputs off the
            unit scale whose inputs are off it, too.
        cut: what ``residual`` was when the time budget was spent, where that decides nothing; ``residual`` is ``None`` then.
        foretold: whether no step was made, because its gradient tells plainly enough what ``movement`` is at the least, to first order.
    """

    movement: tuple[float, ...] = ()
    predicted: float | None = None
    alignment: float | None = None
    residual: float | None = None
    sensitivity: float | None = None
    output_rms: float | None = None
    output_centred_rms: float | None = None
    unit: float = 1.0
    sensitivity_if_smaller: float | None = None
    sensitivity_later: float | None = None
    fit_steps: int | None = None
    token_fit: bool | None = None
    with_unit_inputs: float | None = None
    disturbance: float | None = None
    reach: float = 1.0
    mixing: float | None = None
    mixed_at: str | None = None
    mixed_by_softmax: bool = False
    cut: float | None = None
    foretold: bool = False


@dataclass(frozen=True, slots=True)
class ConstructionFault:
    """What is wrong with the values that construction gave a parameter or a buffer.

    Attributes:
        name: dotted name.
        kind: ``"unwritten"`` (it holds what was in memory before), or ``"differs"`` (deferred construction draws it from
            another distribution than the constructor does).
        found: what was found in it, in words.
        deferred: whether deferred construction did it.
    """

    name: str
    kind: Literal["unwritten", "differs"]
    found: str
    deferred: bool = False

    @property
    def label(self) -> str:
        """Name in findings: the model that was built in the ordinary way has a parameter of the same name."""
        return f"{self.name} (deferred)" if self.deferred else self.name


@dataclass(frozen=True, slots=True)
class Spread:
    """How one parameter or buffer of a distributed model lies on the ranks.

    Attributes:
        name: dotted name.
        buffer: whether it is a buffer.
        split: whether ranks hold parts of it, rather than all of it.
        differing: ranks whose part is not what the first rank with the same part has.
        copies: share of the parts that are bit for bit another part, of those that are not constant.
        holders: the first rank that holds each part of 64 values or more, in the order of the parts.
        counts, means, stds, kurtoses: of these parts.
        local_origin: the scheme whose values these are for the fans of one rank's part and not for the whole one's; ``""`` if none is.
        local_factor: factor by which the std is off then.
    """

    name: str
    buffer: bool = False
    split: bool = False
    differing: tuple[int, ...] = ()
    copies: float = 0.0
    holders: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()
    means: tuple[float, ...] = ()
    stds: tuple[float, ...] = ()
    kurtoses: tuple[float, ...] = ()
    local_origin: str = ""
    local_factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Stray:
    """A tensor that requires a gradient, and gets one, but is not among ``model.parameters()``.

    Attributes:
        name: what it would be called if it were registered, where the model holds it; else the module that uses it.
        where: ``"held"`` by the model past its registers, ``"outside"`` of the model, or ``"made"`` anew in every pass.
        holder: what holds it, in words: ``"a plain dict"``.
        shape: shape.
        varied: whether its values differ from one another.
    """

    name: str
    where: Literal["held", "outside", "made"]
    holder: str
    shape: tuple[int, ...]
    varied: bool


@dataclass(frozen=True, slots=True)
class NotFinite:
    """What first made a number that is not finite, of those that reach the output.

    Attributes:
        layer: layer, or ``module:operation``, in which it happened; name of the parameter or buffer that held it.
        operation: the operation; ``""`` where it was there before.
        what: what happened, in words: ``"log of a negative number (-0.3)"``.
        overflow: whether the signal was too large for its format, rather than outside of the operation's domain.
    """

    layer: str
    operation: str
    what: str
    overflow: bool = False


@dataclass(frozen=True, slots=True)
class Trace:
    """Everything that one probe recorded.

    Attributes:
        layers: records by name, in call order.
        parameters: records by name, in the order of ``named_parameters``.
        output: statistics of the output that was pulled back (all floating outputs together).
        inputs: the inputs in words, one entry each: ``"float32[2, 3, 32, 32]"``.
        batch: number of samples, or ``None`` where no sample dimension was found.
        equal_samples: whether there are several samples and every input is the same for all of them.
        loss: value of the loss, if one was given.
        loss_of_zero_output: the loss of an output that is zero everywhere; ``None`` without a loss, or where the output is
            more than one tensor.
        device: device of the model, as text.
        dtype: main floating dtype of the model, without ``torch.``.
        mode: ``"train"``, ``"eval"`` or ``"as-is"``.
        seed: seed of inputs, cotangent and dropout.
        unseen: what the probe could not see, one sentence each.
        edges: layer name -> names of the layers whose output it reads, as the graph shows it.
        torch_version: version of torch.
        seconds: wall-clock time by phase.
    """

    layers: Mapping[str, LayerRecord]
    parameters: Mapping[str, ParameterRecord]
    output: Stats | None = None
    inputs: tuple[str, ...] = ()
    batch: int | None = None
    equal_samples: bool = False
    loss: float | None = None
    loss_of_zero_output: float | None = None
    device: str = "cpu"
    dtype: str = "float32"
    mode: str = "train"
    seed: int = 0
    unseen: tuple[str, ...] = ()
    edges: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    torch_version: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule's judgement.

    Attributes:
        rule: kebab-case name of the rule.
        severity: ``"error"``, ``"warning"`` or ``"note"``.
        layers: names of layers or parameters, the culprit first.
        summary: what is wrong in one line, with the value and the allowance.
        evidence: the numbers behind it, by name.
        cause: why, in the field's terms, with numbers.
        fix: lines of Python to paste, or ``""`` where none is known to help. They run as they are, where ``model``, ``inputs``
            and ``torch`` are what they are to the user.
        silence: how to silence exactly this finding.
        advice: what to do in words, where it takes a change of the user's own code; ``""`` where there is none.
    """

    rule: str
    severity: Severity
    layers: tuple[str, ...]
    summary: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    cause: str = ""
    fix: str = ""
    silence: str = ""
    advice: str = ""

    def __str__(self) -> str:
        where = f" {self.layers[0]}" if self.layers else ""
        return f"{self.severity} {self.rule}{where}: {self.summary}"


@dataclass(frozen=True, slots=True)
class Seeds:
    """What several initialisations of one factory say.

    Attributes:
        count: number of initialisations, under as many seeds in a row.
        sick: seeds whose initialisation has an error.
    """

    count: int
    sick: tuple[int, ...]
