"""One row of text in place of many equal ones."""

import pytest
import torch
from diffusers import SD3Transformer2DModel
from torch import Generator

from lit_memories.ops.joint_attention import RepeatedRow


def network(dual: bool) -> SD3Transformer2DModel:
    torch.manual_seed(0)
    return SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        caption_projection_dim=16,
        pooled_projection_dim=10,
        pos_embed_max_size=8,
        dual_attention_layers=(1,) if dual else (),
        qk_norm="rms_norm" if dual else None,
    ).double()


@pytest.mark.parametrize("dual", [False, True])
def test_one_row_does_for_many(dual: bool) -> None:
    plain, short = network(dual), network(dual)
    short.set_attn_processor(RepeatedRow())
    generator = Generator().manual_seed(0)
    latents, text, pooled = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((2, 4, 8, 8), (2, 5, 12), (2, 10))
    )
    rows = torch.cat([text, torch.zeros(2, 256, 12, dtype=torch.float64)], 1)
    when = torch.tensor([900.0, 3.0])
    with torch.no_grad():
        expected = plain(latents, rows, pooled, when).sample
        found = short(latents, rows[:, :6], pooled, when, joint_attention_kwargs={"repeated": 256}).sample
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(short(latents, rows, pooled, when).sample, expected, rtol=1e-10, atol=1e-10)
        without = short(latents, rows[:, :6], pooled, when).sample
    assert (without - expected).abs().max() > 1e-3, "the control"
