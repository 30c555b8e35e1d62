"""Files of a kilobyte whose tensors are of any size: refused, before anything is made of them."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lit_memories.storage.weights import read_weights

HUGE = 1 << 40


@pytest.mark.parametrize("tensor", [torch.zeros(1).expand(HUGE), torch.zeros(3, 1).expand(3, HUGE)])
@pytest.mark.parametrize("nested", [False, True])
def test_a_tensor_of_which_the_file_holds_little_is_refused(tensor: Tensor, nested: bool, tmp_path: Path) -> None:
    file = tmp_path / "model.ckpt"
    torch.save({"state_dict": {"a": {"weight": tensor}}} if nested else {"a.weight": tensor}, file)
    assert file.stat().st_size < 5000
    with pytest.raises(
        ValueError, match=r"model\.ckpt is refused: of a\.weight it does not hold all numbers"
    ) as caught:
        read_weights(file)
    assert "\n" not in str(caught.value)


def test_views_of_what_a_file_holds_are_read(tmp_path: Path) -> None:
    """Of one storage several tensors may be parts, turned or the same."""
    whole = torch.arange(12.0).view(3, 4)
    tensors = {"whole": whole, "turned": whole.t(), "part": whole[1:], "again": whole, "none": torch.zeros(0)}
    torch.save(tensors, tmp_path / "model.pt")
    found = read_weights(tmp_path / "model.pt").tensors
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
