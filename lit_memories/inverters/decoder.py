"""Decoder inversion: latents whose decoding is a given image, whatever they were before."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_memories.ops.gradients import gradients

DecodeFn = Callable[[Tensor], Tensor]
"""Images (n, 3, h, w), differentiable and not clamped, of latents (n, c, h, w) as the decoder takes them: unscaled."""

ROUND = 10
"""Iterations of L-BFGS between two looks at the stopping rule."""
PSNR_LIMIT = 100.0


@dataclass(frozen=True)
class Decoded:
    """Latents and how well they decode, a row a sample.

    Args:
        latents: unscaled (n, c, h, w).
        psnr: of their decoding, clamped, against the image (n,), in dB, at most 100.
        passes: through the decoder, forwards and backwards, spent on each sample (n,).
    """

    latents: Tensor
    psnr: Tensor
    passes: Tensor


class DecoderInversion:
    r"""Minimises the mean squared error :math:`\lVert D(z) - x \rVert^2` over z from a given start.

    No term holds z near anything. By default with L-BFGS and a strong Wolfe line search, which ends as soon as ten
    iterations gain less than `tolerance`. Samples are treated one at a time: a line search over several would mix them,
    and a decoder called with other numbers of rows rounds otherwise.

    Args:
        max_passes: through the decoder that a sample may take, up to a line search more; what `faithful` takes exactly.
            If None, 400, and 3000 with `faithful`, as officially.
        faithful: the official optimiser, Adam without schedule or early stop.
        lr: of Adam; L-BFGS finds its own.
        tolerance: gain in dB over ten iterations of L-BFGS below which a sample is done.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(
        self, max_passes: int | None = None, faithful: bool = False, lr: float = 1e-2, tolerance: float = 0.05
    ) -> None:
        self.max_passes = (3000 if faithful else 400) if max_passes is None else max_passes
        if self.max_passes < 1 or lr <= 0 or tolerance <= 0:
            raise ValueError(
                f"max_passes ({self.max_passes}) must be at least 1, lr ({lr}) and tolerance ({tolerance}) positive"
            )
        self.faithful, self.lr, self.tolerance = faithful, lr, tolerance

    def settings(self) -> dict[str, Any]:
        """Name and hyper-parameters, as far as a result depends on them."""
        chosen = {"lr": self.lr} if self.faithful else {"tolerance": self.tolerance}
        return {"name": type(self).__name__, "max_passes": self.max_passes, "faithful": self.faithful, **chosen}

    def __call__(self, decode: DecodeFn, images: Tensor, start: Tensor) -> Decoded:
        """Find latents that decode to `images` (n, 3, h, w), from `start` (n, c, h, w).

        Weights of the decoder get no gradient.

        Works within inference mode, in which Lightning predicts, provided the decoder was made outside it.

        Raises:
            ValueError: if there are not as many starts as images, or none.
        """
        if len(images) != len(start) or len(images) == 0:
            raise ValueError(f"decoder inversion needs a start for every image, got {len(start)} for {len(images)}")
        with gradients():
            rows = [
                self._one(decode, *row) for row in zip(images.clone().split(1), start.clone().split(1), strict=True)
            ]
        latents, errors, passes = zip(*rows, strict=True)
        error = torch.stack(errors).clamp_min(10 ** (-PSNR_LIMIT / 10))
        return Decoded(torch.cat(latents), -10 * error.log10(), torch.tensor(passes, device=images.device))

    def _one(self, decode: DecodeFn, image: Tensor, start: Tensor) -> tuple[Tensor, Tensor, int]:
        latents = start.detach().clone().requires_grad_()
        passes = 0

        def closure() -> Tensor:
            nonlocal passes
            passes += 1
            loss = (decode(latents) - image).square().mean()
            (latents.grad,) = torch.autograd.grad(loss, latents)
            return loss.detach()

        if self.faithful:
            adam = torch.optim.Adam([latents], lr=self.lr)
            for _ in range(self.max_passes):
                adam.step(closure)
        else:
            self._lbfgs(latents, closure, lambda: passes)
        found = latents.detach()
        with torch.no_grad():
            error = (decode(found).clamp(0, 1) - image).square().mean()
        return found, error.double(), passes

    def _lbfgs(self, latents: Tensor, closure: Callable[[], Tensor], passes: Callable[[], int]) -> None:
        # Its own tolerances are absolute, and far above the gradients of a mean over all pixels.
        options: dict[str, Any] = {"tolerance_grad": 0, "tolerance_change": 0, "line_search_fn": "strong_wolfe"}
        optimiser = torch.optim.LBFGS([latents], max_iter=ROUND, history_size=20, **options)
        if not closure().isfinite():  # from which the line search has no way on
            return
        before: Tensor | None = None
        while passes() < self.max_passes:
            optimiser.param_groups[0]["max_eval"] = self.max_passes - passes()
            loss = optimiser.step(closure)  # the loss at the round's first iterate
            gain = None if before is None else 10 * torch.log10(before / loss)
            if gain is not None and not gain >= self.tolerance:  # nor where it is NaN
                break
            before = loss
