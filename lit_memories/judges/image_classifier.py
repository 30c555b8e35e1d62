"""Any image classifier of the hub as a judge: ImageNet's ResNet-50 for objects, a style classifier for painters."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from torch import Tensor
from transformers import AutoModelForImageClassification

from lit_memories.concept import Concept
from lit_memories.identity import config_of, digest
from lit_memories.images import to_pil
from lit_memories.judges.base import Judge, Verdict
from lit_memories.judges.hub import load_image_processor, load_model, locate
from lit_memories.ops.fingerprint import fingerprint


class ImageClassifierJudge(Judge):
    """A picture shows the concept if one of its labels is among the classifier's `top_k`.

    The labels say what is looked for; of the concept nothing is used.

    Args:
        model_id: folder or hub id of a transformers model for image classification, with safetensors weights.
        labels: classes that are the concept, by id or by name. A class of several names, as ImageNet's
            ``church, church building``, may be called by each of them.
        top_k: how many of the most likely classes are looked at.
        revision: git revision of a hub id.

    Raises:
        FileNotFoundError: if the model cannot be had.
        ValueError: if a label is none of the model's or names several, or `top_k` is not in 1..classes.
    """

    def __init__(self, model_id: str, labels: list[int | str], top_k: int = 1, revision: str | None = None) -> None:
        super().__init__()
        folder = locate(model_id, revision)
        self.processor = load_image_processor(folder)
        self.model = load_model(AutoModelForImageClassification, folder)
        names = {int(number): str(name) for number, name in self.model.config.id2label.items()}
        if not 1 <= top_k <= len(names):
            raise ValueError(f"top_k must be in 1..{len(names)}, the classes of {model_id}; got {top_k}")
        self.labels, self.top_k = find_labels(labels, names, model_id), top_k

    def look(self, image: Tensor, prompt: str, concept: Concept) -> Verdict:
        """The verdict on one picture; ``probability`` is that of all labels together."""
        pixels = self.processor(to_pil(image[0]), return_tensors="pt")["pixel_values"].to(image.device)
        probabilities = self.model(pixel_values=pixels).logits[0].float().softmax(0)
        best = probabilities.topk(self.top_k).indices.tolist()
        shown = not set(self.labels).isdisjoint(best)
        return {"shows_concept": float(shown), "probability": float(probabilities[self.labels].sum())}

    def identity(self, concept: Concept) -> str:
        """Weights, configuration, preprocessing, labels and `top_k`."""
        made = digest([config_of(self.model), self.processor.to_dict()])
        return f"ImageClassifierJudge {fingerprint(self.model)}/{made} labels={self.labels} top_k={self.top_k}"


def find_labels(labels: Sequence[int | str], names: Mapping[int, str], model: str) -> list[int]:
    """Ids of labels given by id or name, sorted.

    Args:
        labels: what to find.
        names: the model's classes; names that mean the same are separated by commas.
        model: what errors call the model.

    Raises:
        ValueError: if there is no label, or one is not of the model or is several of its classes.
    """
    if not labels:
        raise ValueError("a judge needs at least one label of what it looks for")
    ids: dict[str, set[int]] = {}
    for number, name in names.items():
        for synonym in {name, *name.split(",")}:
            ids.setdefault(synonym.strip().lower(), set()).add(number)
    return sorted({_find(label, ids, names, model) for label in labels})


def _find(label: int | str, ids: Mapping[str, set[int]], names: Mapping[int, str], model: str) -> int:
    if isinstance(label, int):
        if label not in names:
            raise ValueError(f"{model} has no class {label}: its ids are {min(names)}..{max(names)}")
        return label
    found = sorted(ids.get(label.strip().lower(), ()))
    if len(found) > 1:
        raise ValueError(f"label {label!r} of {model} is several classes, {found}: say which by its id")
    if not found:
        near = get_close_matches(label.strip().lower(), ids, n=3, cutoff=0.4) or sorted(ids)[:3]
        raise ValueError(f"{model} has no label {label!r}; nearest: {', '.join(map(repr, near))}")
    return found[0]
