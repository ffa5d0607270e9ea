"""The two ends every denoiser shares: the mask has a row of its own, and logits are only ever about real tokens."""

from __future__ import annotations

import math

import pytest
import torch

from lgdlm.models.denoiser import NoisyPair
from lgdlm.models.embedding import TextHead, TokenEmbedding

V, H = 11, 16


def pair(logits_at: torch.Tensor | None = None) -> NoisyPair:
    return NoisyPair(
        text=torch.zeros(2, 5, dtype=torch.long),
        t_text=torch.ones(2),
        latent=torch.zeros(2, 1, 3),
        t_latent=torch.ones(2),
        attention_mask=torch.ones(2, 5, dtype=torch.bool),
        logits_at=logits_at,
    )


@pytest.mark.parametrize("width", [0, 4, H])
def test_shapes_with_and_without_a_factorised_table(width):
    embedding = TokenEmbedding(V, H, width)
    assert embedding.table.weight.shape == (V, width or H), "the mask is not a row of the vocabulary"
    assert embedding(torch.randint(0, V + 1, (2, 5))).shape == (2, 5, H)


@pytest.mark.parametrize("width", [0, 4])
def test_tokens_get_their_rows_and_masks_the_masks(width):
    embedding = TokenEmbedding(V, H, width)
    out = embedding(torch.tensor([[0, V, V - 1]]))[0]
    rows = torch.stack([embedding.table.weight[0], embedding.mask, embedding.table.weight[V - 1]])
    torch.testing.assert_close(out, embedding.project(rows * (width or H) ** 0.5))


def test_a_mask_trains_the_mask_and_no_token():
    """Trap: the mask read as token 0 would leak into token 0, and a frozen table could not learn it."""
    embedding = TokenEmbedding(V, H)
    embedding(torch.full((2, 3), V)).sum().backward()
    assert embedding.mask.grad is not None
    assert embedding.mask.grad.abs().min() > 0
    assert embedding.table.weight.grad is None or not embedding.table.weight.grad.any()
    embedding.zero_grad()
    embedding(torch.tensor([[0, 3]])).sum().backward()
    assert not embedding.mask.grad.any() if embedding.mask.grad is not None else True
    assert embedding.table.weight.grad is not None
    assert embedding.table.weight.grad.any(dim=1).nonzero().flatten().tolist() == [0, 3]


def test_ids_beyond_the_mask_are_refused():
    with pytest.raises(IndexError):
        TokenEmbedding(V, H)(torch.tensor([[V + 1]]))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("width", [0, 4])
def test_logits_cannot_name_the_mask(tied, width):
    """Trap: a sampler that emits [MASK]. There is no logit for it."""
    head = TextHead(TokenEmbedding(V, H, width), H, tied)
    assert head(torch.randn(2, 5, H), pair()).shape == (2, 5, V)


def test_asked_positions_are_the_same_logits_in_row_order():
    torch.manual_seed(0)
    head, hidden = TextHead(TokenEmbedding(V, H), H), torch.randn(2, 5, H)
    asked = torch.tensor([[True, False, False, True, False], [False, True, False, False, False]])
    everywhere, some = head(hidden, pair()), head(hidden, pair(asked))
    assert some.shape == (3, V)
    torch.testing.assert_close(some, torch.stack([everywhere[0, 0], everywhere[0, 3], everywhere[1, 1]]))
    assert head(hidden, pair(torch.zeros(2, 5, dtype=torch.bool))).shape == (0, V)


def test_tied_means_one_tensor_and_untied_means_two():
    embedding = TokenEmbedding(V, H, 4)
    assert TextHead(embedding, H, tied=True).decode.weight is embedding.table.weight
    untied = TextHead(embedding, H, tied=False)
    untied(torch.randn(2, 5, H), pair()).sum().backward()
    assert untied.decode.weight.grad is not None
    assert embedding.table.weight.grad is None


@pytest.mark.parametrize("tied", [True, False])
def test_every_parameter_of_the_head_learns_from_the_first_step(tied):
    torch.manual_seed(0)
    head = TextHead(TokenEmbedding(V, H, 4), H, tied)
    head(torch.randn(2, 5, H), pair()).square().sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_a_new_head_is_nearly_uniform():
    torch.manual_seed(0)
    log_p = TextHead(TokenEmbedding(V, H), H)(torch.randn(2, 5, H), pair()).log_softmax(-1)
    assert float((log_p.detach() + math.log(V)).abs().max()) < 0.3
