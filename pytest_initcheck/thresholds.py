"""The numbers that questions, verdicts and texts share: how hard the function is pushed, and which answer is a fault.

Torch-free and on the lowest floor, because both sides need them: :mod:`~pytest_initcheck.response.ask` asks a second question
only where a first answer comes near a bound, :mod:`~pytest_initcheck.rules` judges by the same bound, and its texts name
it. Read them where they are used, as ``thresholds.CHAOTIC``: whoever moves one moves all three. What a single rule alone
decides by stands beside that rule.
"""

from __future__ import annotations

# -- how hard the function is pushed

#: Size of one optimizer-like step per weight: Adam's first step at its default learning rate.
STEP = 1e-3
#: Gates may stand behind gates (a zero head behind adaLN-zero): after this many steps whatever is still silent is dead.
LOOKS = 3
#: Disturbance of the input, relative to its RMS.
DISTURBANCE = 1e-2
#: Learning rates (the range in common use) and number of steps of the fit (Adam); the best of them counts.
FIT_RATES = (3e-3, 1e-3, 3e-4)
FIT_STEPS = 30
#: The fit is over once less than this share of the centred squared error is left: healthy networks get here in 2 to 15 steps.
FIT_ENOUGH = 0.9
#: The same for token scores, as a share of the cross-entropy of a uniform guess.
TOKEN_FIT_ENOUGH = 0.3

# -- whether the output moves

#: A network that moves less than this in a few optimizer-sized steps is looked at harder; 4 decades inside the fault.
SILENT = 1e-3
#: Weights that add up in one unit of an ordinary layer: narrower models are asked to move by as much less.
WIDE = 32.0
#: Share of an output that differs over the samples, from which on its own scale is the one that it moves on; and the smallest
#: part of SILENT that is asked for (no harmless model moves by less than a hundredth of it).
VARIED, FAINT = 1e-3, 1e-2
#: What a step moves the output by at the least, by its gradient, where no step is made to see: four times what leaves a doubt, and a
#: quarter of the movement that leaves one again.
FORETOLD = (0.02, 0.75)
#: Movement of the output in one step beyond what published models show.
VIOLENT = 50.0
#: A network that moves by less than DEEP at first, and needs more than LATE steps of the fit to reach FIT_ENOUGH, sleeps on.
DEEP, LATE = 1e-6, 20

# -- whether targets are within reach

#: Share of the centred squared error on targets that are functions of the input, after FIT_STEPS steps at the better rate.
UNREACHED = 0.94
#: The same for token scores: share of a uniform guess's cross-entropy.
TOKENS_UNREACHED = 0.45
#: Beyond this share the steps have not even brought the output to where zeros are: 2.2 times as far from the targets.
STRAYED = 5.0
#: Correlation of the first step's movement with the direction it was asked to move in.
ASTRAY = 0.2
#: RMS over the samples of an output that no unit-scale loss pulls back within a short training.
OUT_OF_REACH = 40.0
#: An output of this RMS over the samples, or in all, is off the unit scale; below, such a loss pulls it back in a few steps.
AMPLE = 3.0
FAR = 5.0
#: Loss at the start over the loss of an output that is zero.
CONFIDENT = 10.0

# -- whether near inputs are treated alike, and different ones differently

#: Relative change of the output over relative change of the input, from which on it is asked whether smaller weights
#: would cure it (harmless networks: 24.8 at most).
CHAOTIC = 28.0
#: What the gradient of one random direction says of this is believed where it is so many times away from either bound: on
#: 322 models of the verdict benchmark a disturbance does 0.5 to 3.9 times as much, and 0.76 to 1.5 times on 98 in 100.
PLAINLY = 4.0
#: Decades by which the weights are larger than theory asks for before they are blamed for chaos (kaiming over xavier: 0.15).
OVERSIZED = 0.4
#: Chaos counts as the init's if smaller weights bring it down by this factor.
CURED = 0.5
#: Relative change of the output over relative change of the input, below which it does not follow the input, unless a
#: step opens the way.
DEAF = 1e-4
#: Variation across samples below which they all look the same (float32 rounding: 1e-7).
BLIND = 1e-6
#: Relative change of the outputs of samples that were left alone, from which on they read the one that was not.
MIXED = 1e-5

# -- what stands out in a layer

#: A constant offset of a pre-activation this large closes a ReLU's or a gate's unit for almost every sample.
LARGE_BIAS = 3.0
#: Share of the range beyond which tanh, sigmoid and their like count as flat.
FLAT = 0.99
#: Standard errors by which eager and deferred statistics may differ: 1 in 10^9 for a normal distribution, wide enough for
#: the heavier tails of products and for the thousands of parameters of one model.
STANDARD_ERRORS = 6.5
