"""Stable Diffusion XL against diffusers' own pipeline, and what can be done with it."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from far import FAR, far_away
from small_runs import changed, fit, snapshot
from tiny_pipelines import EULER
from torch import Generator, Tensor, nn

from lit_memories.concept import Concept
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.advunlearn import AdvUnlearn
from lit_memories.erasers.closed_form import ClosedFormEraser
from lit_memories.erasers.rece import RECE
from lit_memories.erasers.uce import UCE
from lit_memories.erasure import Erasure
from lit_memories.ops.adapters import Adapter, attention_layers, initial_factors
from lit_memories.ops.attention import recorded_attention
from lit_memories.ops.fingerprint import fingerprint
from lit_memories.ops.select import Selection, select
from lit_memories.prompt_rows import with_row

PROMPTS = ["a painting by Van Gogh", "a photo of a church"]
LONG = "a painting by Van Gogh " * 20
TOKENS, WIDTH, POOLED = 24, 48, 32


def seeds(model: Diffusion, count: int = 2) -> Tensor:
    return model.draw_seeds([Generator().manual_seed(i) for i in range(count)])


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


@torch.no_grad()
def test_prompts_are_encoded_as_the_pipeline_encodes_them(model: Diffusion, pipeline: Any) -> None:
    text, empty, pooled, empty_pooled = pipeline.encode_prompt([*PROMPTS, LONG], do_classifier_free_guidance=True)
    embeds = model.encode_prompts([*PROMPTS, LONG])
    assert embeds.shape == (3, TOKENS + 1, WIDTH)
    assert torch.equal(embeds[:, :TOKENS], text)
    assert torch.equal(embeds[:, TOKENS, :POOLED], pooled)
    assert not embeds[:, TOKENS, POOLED:].any()
    nothing = model.encode_prompts([PROMPTS[0], "", LONG])[1]
    assert torch.equal(nothing[:TOKENS], empty[0])
    assert torch.equal(nothing[TOKENS, :POOLED], empty_pooled[0])
    assert not nothing.any(), "SDXL guides away from zeros"


@torch.no_grad()
def test_the_empty_prompt_is_what_the_configuration_says(pipeline: Any) -> None:
    pipeline.register_to_config(force_zeros_for_empty_prompt=False)
    model = Diffusion.from_pipeline(pipeline)
    _, empty, _, pooled = pipeline.encode_prompt(PROMPTS[:1], do_classifier_free_guidance=True)
    embeds = model.encode_prompts([""])
    assert torch.equal(embeds[:, :TOKENS], empty)
    assert torch.equal(embeds[:, TOKENS, :POOLED], pooled)
    assert embeds.any()
    assert model.pipeline().config.force_zeros_for_empty_prompt is False


@torch.no_grad()
def test_the_network_is_called_as_the_pipeline_calls_it(model: Diffusion, pipeline: Any) -> None:
    text, _, pooled, _ = pipeline.encode_prompt(PROMPTS, do_classifier_free_guidance=False)
    sizes = pipeline._get_add_time_ids((64, 64), (0, 0), (64, 64), text.dtype, POOLED).expand(2, -1)
    x = seeds(model)

    def expected(pooled: Tensor, sizes: Tensor) -> Tensor:
        added = {"text_embeds": pooled, "time_ids": sizes}
        return pipeline.unet(x, 500, encoder_hidden_states=text, added_cond_kwargs=added).sample

    noise = model.predict_noise(x, 500, model.encode_prompts(PROMPTS))
    assert torch.equal(noise, expected(pooled, sizes))
    for other in (expected(pooled.flip(0), sizes), expected(pooled, sizes / 2)):
        assert not torch.allclose(noise, other, atol=1e-5), "the control: pooled embedding and sizes are heard"


@torch.no_grad()
def test_sizes_are_height_before_width(pipeline: Any) -> None:
    pipeline.unet.register_to_config(sample_size=(8, 16))
    model = Diffusion.from_pipeline(pipeline)
    _, added = model.conditioning.split(model.encode_prompts(PROMPTS))
    expected = pipeline._get_add_time_ids((32, 64), (0, 0), (32, 64), torch.float32, POOLED)
    assert torch.equal(added["added_cond_kwargs"]["time_ids"], expected.expand(2, -1))


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
def test_generates_what_the_pipeline_generates(guidance_scale: float, model: Diffusion, pipeline: Any) -> None:
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    options = {"num_inference_steps": 6, "output_type": "pt"}
    made = pipeline(PROMPTS, latents=seeds(model), guidance_scale=guidance_scale, **options).images
    images = model.generate(PROMPTS, seeds(model), 6, guidance_scale)
    torch.testing.assert_close(images, made, rtol=0, atol=1e-4)
    other = model.generate(PROMPTS, seeds(model), 6, 3.0)
    assert not torch.allclose(images, other, atol=1e-4), "the control: guidance is heard"


def test_a_pipeline_comes_back_whole(model: Diffusion, tmp_path: Path) -> None:
    model.pipeline().save_pretrained(tmp_path)
    again = Diffusion.from_pretrained(tmp_path)
    assert again.fingerprint == model.fingerprint
    assert again.schedule.ddim_steps(7) == model.schedule.ddim_steps(7)
    assert torch.equal(again.encode_prompts([*PROMPTS, ""]), model.encode_prompts([*PROMPTS, ""]))
    plain = StableDiffusionXLPipeline.from_pretrained(tmp_path)
    assert isinstance(plain.scheduler, DDIMScheduler)
    assert plain.config.force_zeros_for_empty_prompt is True


def test_no_exported_sampler_cuts_latents(pipeline: Any) -> None:
    """Settings of a sampler that says nothing of it, where DDIM's own default would."""
    pipeline.scheduler = EulerDiscreteScheduler(beta_schedule="scaled_linear")
    assert DDIMScheduler.from_config(pipeline.scheduler.config).config.clip_sample, "the control"
    assert not Diffusion.from_pipeline(pipeline).pipeline().scheduler.config.clip_sample


def test_both_text_encoders_are_part_of_the_model(model: Diffusion) -> None:
    parts = {name.split(".")[0] for name in model.state_dict()}
    assert parts == {"unet", "vae", "text_encoder", "text_encoder_2"}
    for component in ("unet", "text_encoder", "text_encoder_2"):
        before = model.weights_fingerprint()
        with torch.no_grad():
            next(getattr(model, component).parameters()).view(-1)[0] += 1e-3
        assert model.weights_fingerprint() != before
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("options", "spacing", "first"),
    [
        ({}, "leading", 876),
        ({"timestep_spacing": "linspace"}, "linspace", 999),
        ({"timestep_spacing": "trailing", "steps_offset": 0}, "trailing", 999),
        ({"prediction_type": "v_prediction"}, "leading", 876),
    ],
)
def test_settings_of_euler_become_those_of_ddim(
    options: dict[str, Any], spacing: str, first: int, pipeline: Any
) -> None:
    pipeline.scheduler = EulerDiscreteScheduler.from_config(EULER | options)
    schedule = Diffusion.from_pipeline(pipeline).schedule
    assert (schedule.timestep_spacing, schedule.ddim_steps(8)[0].timestep) == (spacing, first)
    assert schedule.prediction_type == options.get("prediction_type", "epsilon")
    assert schedule.steps_offset == options.get("steps_offset", 1)
    assert schedule.alpha(-1) == schedule.alpha(0) < 1, "set_alpha_to_one is false, which Euler carries along"
    sigmas = pipeline.scheduler.sigmas.flip(0)[1:].double()  # Euler's levels, from image to noise
    torch.testing.assert_close(schedule.alphas_cumprod, 1 / (1 + sigmas**2), rtol=1e-5, atol=0)


def test_half_precision_spares_the_autoencoder(sdxl: Path, model: Diffusion) -> None:
    half = Diffusion(str(sdxl), torch_dtype="float16")
    assert half.unet.dtype == half.text_encoder_2.dtype == torch.float16
    assert half.vae.dtype == torch.float32
    assert half.decode_latents(seeds(half).half()).dtype == torch.float32
    calm = Diffusion(str(sdxl), torch_dtype="bfloat16")
    assert calm.vae.dtype == torch.bfloat16, "which does not overflow"
    noise = half.predict_noise(seeds(half), 500, half.encode_prompts(PROMPTS))
    expected = model.predict_noise(seeds(model), 500, model.encode_prompts(PROMPTS))
    torch.testing.assert_close(noise, expected, rtol=0, atol=0.01)


def test_parts_that_do_not_belong_together_are_refused(pipeline: Any) -> None:
    pipeline.vae.register_to_config(latents_mean=[0.0] * 4, latents_std=[1.0] * 4)
    with pytest.raises(ValueError, match="latents_mean") as error:
        Diffusion.from_pipeline(pipeline, "playground")
    assert "playground" in one_line(error)
    pipeline.unet.register_to_config(addition_time_embed_dim=16)
    with pytest.raises(ValueError, match="takes 80 added values, text_encoder_2 and 6 sizes give 128") as error:
        Diffusion.from_pipeline(pipeline)
    one_line(error)
    pipeline.unet.register_to_config(cross_attention_dim=16)
    with pytest.raises(
        ValueError, match=r"pooled embedding \(32 wide\) does not fit into a row .* \(16 wide\)"
    ) as error:
        Diffusion.from_pipeline(pipeline)
    one_line(error)
    pipeline.tokenizer_2.model_max_length = 77
    with pytest.raises(ValueError, match=r"windows of different length: \[24, 77\]") as error:
        Diffusion.from_pipeline(pipeline)
    one_line(error)
    pipeline.text_encoder = None
    with pytest.raises(ValueError, match="not a refiner") as error:
        Diffusion.from_pipeline(pipeline)
    one_line(error)


def test_a_row_more() -> None:
    embeds, values = torch.randn(2, 3, 4), torch.randn(2, 3)
    found = with_row(embeds, values)
    assert torch.equal(found[:, :3], embeds)
    assert torch.equal(found[:, 3, :3], values)
    assert not found[:, 3, 3:].any()


@torch.no_grad()
def test_cross_attention_sees_rows_of_text_alone(model: Diffusion) -> None:
    with recorded_attention(model.unet) as probabilities:
        model.predict_noise(seeds(model), 500, model.encode_prompts(PROMPTS))
    assert [p.shape[-1] for p in probabilities] == [TOKENS] * len(probabilities)
    assert [p.shape[1] for p in probabilities][:3] == [2, 4, 4], "heads, in the network's order"


@torch.no_grad()
def test_a_prediction_waits_for_nothing_and_the_sizes_go_to_the_device_once(model: Diffusion) -> None:
    x, embeds = seeds(model), model.encode_prompts(PROMPTS)
    expected = model.predict_noise(x, 500, embeds)
    with far_away() as waits:
        model.to(FAR)
        x, embeds = x.to(FAR), embeds.to(FAR)
        waits.places.clear()
        found = [model.predict_noise(x, 500, embeds) for _ in range(3)]
        assert waits.places == {"ops/everywhere.py: on: copy": 1}
        torch.testing.assert_close(found[-1].cpu(), expected)


# What erasers may change.


@pytest.fixture(scope="module")
def real() -> nn.Module:
    """SDXL's U-Net, without weights."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=128,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(320, 640, 1280),
            layers_per_block=2,
            transformer_layers_per_block=[1, 2, 10],
            attention_head_dim=[5, 10, 20],
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
    return nn.ModuleDict({"unet": unet})


@pytest.mark.parametrize(
    ("rule", "tensors", "millions"),
    [("attn2-kv", 140, 340.79), ("attn2", 350, 545.67), ("attn1", 350, 409.68), ("full", 1680, 2567.46)],
)
def test_selections_find_the_seventy_blocks_of_sdxl(
    rule: Selection, tensors: int, millions: float, real: nn.Module
) -> None:
    chosen = select(real, rule)
    assert len(chosen) == tensors
    assert sum(parameter.numel() for parameter in chosen.values()) / 1e6 == pytest.approx(millions, abs=0.01)


def test_the_pooled_prompt_comes_in_with_the_timestep(real: nn.Module) -> None:
    added = {name for name in select(real, "full") if ".add_embedding." in name}
    assert len(added) == 4
    for rule in ("not-attn2", "not-time"):
        assert not added & set(select(real, rule))


def test_erasing_from_one_of_two_text_encoders_is_refused(model: Diffusion, van_gogh: Concept) -> None:
    with pytest.raises(ValueError, match="one text encoder, this one has two") as error:
        AdvUnlearn(model, van_gogh)
    one_line(error)


def test_tokens_are_the_prompts_they_stand_for(model: Diffusion) -> None:
    """The second tokenizer pads in another way; of the empty prompt all rows are zeros."""
    for prompts in (PROMPTS, [""]):
        assert torch.equal(model.encode_tokens(model.tokenize(prompts)), model.encode_prompts(prompts))


# Closed forms.


def solved(cls: type[ClosedFormEraser], model: Diffusion, concept: Concept, folder: Path, **options: Any) -> Any:
    method = cls(model, concept, probe_size=2, **options)
    fit(method, folder, -1, max_epochs=1)
    return method


def words_of(pipeline: Any, prompts: list[str], first: int | None) -> Tensor:
    """Vectors of prompts in double precision by diffusers' hands: the last word's, or all from `first` on."""
    text = pipeline.encode_prompt(prompts, do_classifier_free_guidance=False)[0].double()
    if first is not None:
        return text[:, first:].flatten(0, 1)
    mask = pipeline.tokenizer(prompts, padding="max_length", return_tensors="pt").attention_mask
    return text[torch.arange(len(prompts)), mask.sum(1) - 2]


@pytest.mark.parametrize(("tokens", "first"), [("last", None), ("all", 0)])
@torch.no_grad()
def test_uce_is_the_papers_solution_on_rows_of_text(
    tokens: Any, first: int | None, sdxl: Path, van_gogh: Concept, pipeline: Any, tmp_path: Path
) -> None:
    """Equation 3 with an explicit inverse for each matrix; nothing of the pooled embedding takes part."""
    concept = Concept("van_gogh", "style", ["Van Gogh", "art by Van Gogh"], van_gogh.retain, "Van Gogh", "Hokusai")
    model = Diffusion.from_pretrained(sdxl)
    before = {name: parameter.clone().double() for name, parameter in select(model, "attn2-kv").items()}
    with torch.enable_grad():
        solved(UCE, model, concept, tmp_path, tokens=tokens, preserve_tokens=tokens, lamb=0.3)
    c, g = (words_of(pipeline, prompts, first) for prompts in (concept.prompts, ["Hokusai", "art by Hokusai"]))
    p = words_of(pipeline, concept.retain, first)
    right = 0.3 * torch.eye(WIDTH).double() + c.T @ c + p.T @ p
    for name, original in before.items():
        left = 0.3 * original + original @ g.T @ c + original @ p.T @ p
        expected = (left @ torch.linalg.inv(right)).float()
        edited = select(model, "attn2-kv")[name].detach()
        torch.testing.assert_close(edited, expected, rtol=1e-4, atol=1e-5)
        moved, kept = ((rows @ (edited.double() - original).T).norm(dim=1).mean() for rows in (c, p))
        assert kept < 0.3 * moved, "other prompts keep their keys and values"


@pytest.mark.parametrize("cls", [UCE, RECE])
@torch.no_grad()
def test_a_closed_form_is_one_map_on_the_text_alone(
    cls: type[ClosedFormEraser], sdxl: Path, model: Diffusion, van_gogh: Concept, tmp_path: Path
) -> None:
    """The edited network is the original one on mapped rows of text, the pooled row being as it was."""
    edited = Diffusion.from_pretrained(sdxl)
    with torch.enable_grad():
        solved(cls, edited, van_gogh, tmp_path)
    fresh = cls(Diffusion.from_pretrained(sdxl), van_gogh)
    edit = fresh.solve(*fresh.rows_of(van_gogh.prompts), fresh.preserved(van_gogh.retain))
    x, embeds = seeds(model), model.encode_prompts(PROMPTS)
    mapped = torch.cat([(embeds[:, :TOKENS].double() @ edit.T).float(), embeds[:, TOKENS:]], 1)
    noise = edited.predict_noise(x, 700, embeds)
    torch.testing.assert_close(noise, model.predict_noise(x, 700, mapped), rtol=0, atol=1e-5)
    assert not torch.allclose(noise[0], model.predict_noise(x, 700, embeds)[0], atol=1e-4), "the control"
    assert changed(snapshot(model), edited) == set(select(model, "attn2-kv"))


# Gated adapters.


@torch.no_grad()
def test_a_gate_comes_after_the_pooled_row(model: Diffusion, sdxl: Path) -> None:
    plain = Diffusion.from_pretrained(sdxl)
    factors = initial_factors(attention_layers(model.unet), 1, Generator().manual_seed(0))
    for number, (name, factor) in enumerate(factors.items()):
        if name.endswith("up"):
            factor.copy_(torch.randn(factor.shape, generator=Generator().manual_seed(number)))
    model.add_adapter(Adapter(model.unet, factors), ["Van Gogh"])
    embeds, bare = model.encode_prompts([*PROMPTS, ""]), plain.encode_prompts([*PROMPTS, ""])
    assert embeds.shape == (3, TOKENS + 2, WIDTH)
    assert torch.equal(embeds[:, : TOKENS + 1], bare)
    strength = embeds[:, -1, 0]
    assert strength[0] == 1, "both words of the name are in the prompt"
    assert 0 < strength[1] < 1
    assert strength[2] == 0, "zeros are near to nothing"
    x = seeds(model, 3)
    noise, original = (m.predict_noise(x, 500, e) for m, e in ((model, embeds), (plain, bare)))
    assert not torch.allclose(noise[0], original[0], atol=1e-4)
    torch.testing.assert_close(noise[2], original[2])
    text = bare[:, :TOKENS].flatten(1)
    phrase = plain.encode_prompts(["Van Gogh"])[:, :TOKENS].flatten(1)
    torch.testing.assert_close(strength[1], torch.cosine_similarity(text[1:2], phrase)[0] ** 2)
    assert model.weights_fingerprint() != plain.weights_fingerprint()
    with pytest.raises(ValueError, match="gated false"):
        model.pipeline()


def test_an_erasure_is_for_its_base(model: Diffusion, van_gogh: Concept, sdxl: Path, tmp_path: Path) -> None:
    """A second text encoder of other weights is another base."""
    folder = Path(shutil.copytree(sdxl, tmp_path / "other"))
    other = Diffusion.from_pretrained(sdxl)
    with torch.no_grad():
        other.text_encoder_2.text_projection.weight[0, 0] += 1
    other.pipeline().save_pretrained(folder)
    solved(UCE, model, van_gogh, tmp_path / "run")
    with pytest.raises(ValueError, match="made for"):
        Erasure.load(tmp_path / "run").apply(Diffusion.from_pretrained(folder))
    assert fingerprint(other.unet) == fingerprint(Diffusion.from_pretrained(sdxl).unet)
