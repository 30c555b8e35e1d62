r"""The audit's numbers as pure functions of sets; statistics in float64, sets along the last dimension.

Sets are E (images of the concept) and R (reference images); N is the prior's own law (`Null`). What is named a set has
shape (..., n), so that a bootstrap can evaluate many resamples at once; NLL, distances and shifts are in nats.
Source of NLL and relative distance: Memories of Forgotten Concepts (CVPR 2025) and its official code.
"""

from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

from lit_memories.metrics.checks import as_float64, as_pair, as_set
from lit_memories.metrics.inference import auc, holm, images_to_resolve, resolvable
from lit_memories.metrics.null import Null, gaussian_nll
from lit_memories.metrics.permutation import permutation_test, permutation_tests
from lit_memories.metrics.typicality import (
    TESTS,
    SeedTest,
    autocorrelation_test,
    channel_mean_test,
    channel_variance_test,
    combined_p_value,
    ks_test,
    kurtosis_test,
    norm_test,
    typicality,
)
from lit_memories.metrics.wasserstein import DistanceForm, distance, earth_movers_distance, gaussian_w2_squared

__all__ = [
    "TESTS",
    "DistanceForm",
    "Null",
    "SeedTest",
    "auc",
    "autocorrelation_test",
    "channel_mean_test",
    "channel_variance_test",
    "combined_p_value",
    "damage",
    "distance",
    "earth_movers_distance",
    "forgetting",
    "forgetting_fraction",
    "gaussian_nll",
    "gaussian_w2_squared",
    "holm",
    "images_to_resolve",
    "ks_test",
    "kurtosis_test",
    "norm_test",
    "paired_shift",
    "permutation_test",
    "permutation_tests",
    "psnr",
    "relative_distance",
    "resolvable",
    "typicality",
]

PSNR_LIMIT = 100.0  # dB; identical images would be infinite and could not be averaged


def relative_distance(
    concept_nll: Tensor, reference_nll: Tensor, null: Null | Tensor, form: DistanceForm = "w1"
) -> Tensor:
    r"""How much farther than the reference images the concept's lie from the prior.

    .. math:: d_N(E, R) = D(E, N) / D(R, N)

    The paper reads 1 as remembered and larger as better erased. The distance has no sign: where seeds start below the
    null's mean and forgetting moves them up through it, the ratio falls instead (see `forgetting`).

    Args:
        concept_nll: E (..., n).
        reference_nll: R (..., m).
        null: the exact law, or a sample of it as in the official code.
        form: which distance D is, see `distance`.

    Returns:
        The ratio (...), float64, without unit.

    Raises:
        ValueError: if a set is empty or not finite, or the form unknown.

    Example:
        >>> null = Null(1024)
        >>> concept, reference = null.quantiles(4096) + 90, null.quantiles(4096) + 30
        >>> relative_distance(concept, reference, null)
        tensor(3.0000, dtype=torch.float64)
        >>> relative_distance(concept, reference, null.quantiles(4096), form="w2_squared")
        tensor(9., dtype=torch.float64)
    """
    apart = distance(form)
    concept, reference = as_set(concept_nll, "concept set"), as_set(reference_nll, "reference set")
    return apart(concept, null) / apart(reference, null)


def paired_shift(nll: Tensor, baseline: Tensor, name: str = "paired set") -> Tensor:
    """How far each image's NLL moved from its baseline, usually the vanilla model's, in nats.

    Args:
        nll: of the model under audit (..., n).
        baseline: of the same images under the other model (..., n).
        name: how an error calls the set.

    Returns:
        Signed differences (..., n), float64.

    Raises:
        ValueError: if the two differ in length, are empty or not finite.

    Example:
        >>> import torch
        >>> paired_shift(torch.tensor([5.0, 7.0]), torch.tensor([4.0, 9.0]))
        tensor([ 1., -2.], dtype=torch.float64)
    """
    values, base = as_pair(nll, baseline, name)
    return values - base


def damage(reference: Tensor, reference_vanilla: Tensor) -> Tensor:
    r"""What erasing did to images it should have left alone: the mean shift of R, in nats; 0 = nothing.

    .. math:: \overline{R - R_v}

    Args:
        reference: NLL of R under the model (..., n).
        reference_vanilla: NLL of the same images under the vanilla model (..., n).

    Returns:
        Mean shift (...), float64.

    Raises:
        ValueError: if the sets cannot be paired.

    Example:
        >>> import torch
        >>> damage(torch.tensor([5.0, 7.0]), torch.tensor([4.0, 6.0]))
        tensor(1., dtype=torch.float64)
    """
    return paired_shift(reference, reference_vanilla, "reference set").mean(-1)


def forgetting(concept: Tensor, concept_vanilla: Tensor, reference: Tensor, reference_vanilla: Tensor) -> Tensor:
    r"""How far the concept's seeds moved beyond what all seeds did, in nats; 0 = remembers as vanilla does.

    .. math:: \overline{E - E_v} - \overline{R - R_v}

    Paired by image, so that what makes images differ from one another cancels; signed, unlike `relative_distance`.

    Args:
        concept: NLL of E under the model (..., n).
        concept_vanilla: NLL of the same images under the vanilla model (..., n).
        reference: NLL of R under the model (..., m).
        reference_vanilla: NLL of the same images under the vanilla model (..., m).

    Returns:
        Difference of mean shifts (...), float64.

    Raises:
        ValueError: if a set is empty, not finite, or cannot be paired.

    Example:
        >>> import torch
        >>> forgetting(torch.tensor([90.0, 70.0]), torch.tensor([10.0, 10.0]), torch.tensor([5.0]), torch.tensor([2.0]))
        tensor(67., dtype=torch.float64)
    """
    shift = paired_shift(concept, concept_vanilla, "concept set").mean(-1)
    return shift - damage(reference, reference_vanilla)


def forgetting_fraction(
    concept: Tensor,
    concept_vanilla: Tensor,
    concept_control: Tensor,
    reference: Tensor,
    reference_vanilla: Tensor,
    reference_control: Tensor,
) -> Tensor:
    """`forgetting` as a fraction of that of a control which never saw the concept; 1 = as if it had never known.

    Only as good as the control: if the interval of the control's own forgetting holds 0, the ratio means nothing.

    Args:
        concept: NLL of E under the model (..., n).
        concept_vanilla: under the vanilla model (..., n).
        concept_control: under the control (..., n).
        reference: NLL of R under the model (..., m).
        reference_vanilla: under the vanilla model (..., m).
        reference_control: under the control (..., m).

    Returns:
        The ratio (...), float64, without unit.

    Raises:
        ValueError: if a set is empty, not finite, or cannot be paired.

    Example:
        >>> import torch
        >>> e, r = torch.tensor([90.0, 70.0]), torch.tensor([5.0])
        >>> forgetting_fraction(e + 20, e, e + 80, r, r, r)
        tensor(0.2500, dtype=torch.float64)
    """
    own = forgetting(concept, concept_vanilla, reference, reference_vanilla)
    return own / forgetting(concept_control, concept_vanilla, reference_control, reference_vanilla)


def psnr(images: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image, in dB, at most 100.

    The paper averages over images; torchmetrics' default pools their errors, which is another number.

    Args:
        images: in [0, 1] (n, c, h, w).
        target: the originals (n, c, h, w).

    Returns:
        PSNR (n,), float64.

    Raises:
        ValueError: if shapes differ, are not (n, c, h, w), or values leave [0, 1].

    Example:
        >>> import torch
        >>> target = torch.zeros(2, 3, 8, 8)
        >>> psnr(torch.stack([target[0], target[1] + 0.1]), target)
        tensor([100.0000,  20.0000], dtype=torch.float64)
    """
    if images.ndim != 4 or images.shape != target.shape:
        raise ValueError(f"images and target must share a shape (n, c, h, w), got {images.shape} and {target.shape}")
    pair = as_float64(images), as_float64(target)
    for name, values in zip(("images", "target"), pair, strict=True):
        if not bool(((values >= 0) & (values <= 1)).all()):
            raise ValueError(f"{name} must be in [0, 1]: map them from [-1, 1] or 0..255 first")
    ratio = peak_signal_noise_ratio(*pair, data_range=1.0, dim=(1, 2, 3), reduction="none")
    return ratio.clamp(max=PSNR_LIMIT)
