"""The networks that papers compare pictures with: Inception, CLIP, PickScore, LPIPS."""

import importlib
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lit_memories.judges.clip import CLIP, load_clip
from lit_memories.judges.measures import Features, Measure, PictureDistance, TextScore
from lit_memories.ops.fingerprint import fingerprint
from lit_memories.storage.hub import is_id
from lit_memories.storage.shipped import model_folder

INCEPTION = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
"""The weights that FID is made with, as torch-fidelity has them; the name ends with the start of their SHA-256."""


class InceptionFeatures(Features):
    """The 2048 features of the Inception network that FID and KID are published with, by torchmetrics.

    It needs the package torch-fidelity. Of the weights, a pickle, nothing but tensors is made.

    Args:
        weights: file of the weights; torch-fidelity's, from its releases, if None.
    """

    name = "inception"

    def __init__(self, weights: Path | None = None) -> None:
        self.weights = weights

    @property
    def remote(self) -> bool:
        """Unless a file was named."""
        return self.weights is None

    def load(self) -> nn.Module:
        """The network.

        Raises:
            OSError: if the weights cannot be had.
            ImportError: without torch-fidelity.
            ValueError: if the file named is not that network's weights.
        """
        importlib.import_module("torch_fidelity")
        from torchmetrics.image.fid import NoTrainInceptionV3

        file = self.weights
        if file is None:
            torch.hub.load_state_dict_from_url(INCEPTION, progress=False, check_hash=True, weights_only=True)
            file = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION.rsplit("/", 1)[-1]
        elif not file.is_file():
            raise FileNotFoundError(f"{file}: there is no such file of weights")
        try:
            torch.load(file, map_location="cpu", weights_only=True)  # refuses all that the next line must not meet
            return NoTrainInceptionV3("inception-v3-compat", ["2048"], str(file), antialias=False)
        except Exception:  # a file that anybody may have made can fail in any way
            raise ValueError(
                f"{file} holds no weights of FID's Inception network, or is a pickle that needs code to be run"
            ) from None

    def look(self, network: nn.Module, image: Tensor) -> Tensor:
        """Features (1, 2048); the network squeezes pictures to its size as TensorFlow did."""
        found: Tensor = network(image.mul(255).round().to(torch.uint8))
        return found

    def identity(self) -> str:
        """The weights."""
        return f"InceptionFeatures {fingerprint(self.network)}"


class _OfCLIP(Measure):
    """What CLIP sees.

    Args:
        model_id: folder or hub id of a `CLIPModel` with safetensors weights.
        revision: git revision of a hub id.
        processor_id: folder or hub id of tokenizer and image processor, where the model's own has none.
    """

    def __init__(self, model_id: str, revision: str | None = None, processor_id: str | None = None) -> None:
        self.model_id, self.revision, self.processor_id = model_id, revision, processor_id

    @property
    def remote(self) -> bool:
        """Unless it is a folder here."""
        return is_id(self.model_id) and not model_folder(self.model_id).exists()

    @cached_property
    def clip(self) -> CLIP:
        """The model with what makes its input."""
        return load_clip(self.model_id, self.revision, self.processor_id)

    def load(self) -> nn.Module:
        """The model."""
        model: nn.Module = self.clip.model
        return model

    def identity(self) -> str:
        """Weights, configuration, preprocessing and tokenizer."""
        return f"{type(self).__name__} {self.clip.identity()}"


class CLIPFeatures(_OfCLIP, Features):
    """CLIP's embeddings of pictures, which CMMD is made of (Jayasumana et al. 2024).

    Args:
        model_id: folder or hub id of a `CLIPModel` with safetensors weights; CMMD's by default.
        revision: git revision of a hub id.
        processor_id: folder or hub id of tokenizer and image processor, where the model's own has none.
    """

    name = "clip"

    def __init__(
        self,
        model_id: str = "openai/clip-vit-large-patch14-336",
        revision: str | None = None,
        processor_id: str | None = None,
    ) -> None:
        super().__init__(model_id, revision, processor_id)

    def look(self, network: nn.Module, image: Tensor) -> Tensor:
        """Projected embedding (1, d), of unit norm."""
        model: Any = network
        seen = model.vision_model(pixel_values=self.clip.pixels(image)).pooler_output
        embedded: Tensor = model.visual_projection(seen).float()
        return embedded / embedded.norm(dim=1, keepdim=True)


class CLIPScore(_OfCLIP, TextScore):
    """A hundred times the cosine of picture and prompt, at least 0 (Hessel et al. 2021), as torchmetrics has it.

    Args:
        model_id: folder or hub id of a `CLIPModel` with safetensors weights.
        revision: git revision of a hub id.
        processor_id: folder or hub id of tokenizer and image processor, where the model's own has none.
    """

    def __init__(
        self,
        model_id: str = "openai/clip-vit-large-patch14",
        revision: str | None = None,
        processor_id: str | None = None,
    ) -> None:
        super().__init__(model_id, revision, processor_id)

    def look(self, image: Tensor, prompt: str) -> Tensor:
        """The score of one picture."""
        return (100 * self.clip.logits(image, [prompt])[0] / self.clip.model.logit_scale.exp()).clamp(min=0)


class PickScore(_OfCLIP, TextScore):
    """What people would rather have of a prompt: a CLIP that learnt their choices (Kirstain et al. 2023).

    The score is the cosine times the model's own scale, 100: of two pictures of a prompt the first is preferred with
    probability sigmoid of the difference.

    Args:
        model_id: folder or hub id of a `CLIPModel` with safetensors weights.
        revision: git revision of a hub id.
        processor_id: folder or hub id of tokenizer and image processor; officially those of the model below it.
    """

    def __init__(
        self,
        model_id: str = "yuvalkirstain/PickScore_v1",
        revision: str | None = None,
        processor_id: str | None = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    ) -> None:
        super().__init__(model_id, revision, processor_id)

    def look(self, image: Tensor, prompt: str) -> Tensor:
        """The score of one picture."""
        return self.clip.logits(image, [prompt])[0]


class LPIPS(PictureDistance):
    """The learned perceptual distance (Zhang et al. 2018), by torchmetrics.

    It needs the package torchvision, whose network's weights are fetched and must have the hash that it names.

    Args:
        net: the network below: AlexNet, as is usual, VGG or SqueezeNet.
    """

    def __init__(self, net: Literal["alex", "vgg", "squeeze"] = "alex") -> None:
        self.net = net

    def load(self) -> nn.Module:
        """The network with its linear layers.

        Raises:
            OSError: if its weights cannot be had.
            ImportError: without torchvision.
        """
        importlib.import_module("torchvision")
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        network: nn.Module = LearnedPerceptualImagePatchSimilarity(net_type=self.net, normalize=True).net
        return network

    def look(self, network: nn.Module, image: Tensor, other: Tensor) -> Tensor:
        """The distance of one pair."""
        found: Tensor = network(image, other, normalize=True)
        return found.flatten()[0]

    def identity(self) -> str:
        """The network's kind and weights."""
        return f"LPIPS {self.net} {fingerprint(self.network)}"
