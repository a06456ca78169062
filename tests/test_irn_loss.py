"""IRN's loss: against losses of every gathered pair, and by hand."""

from inspect import unwrap

import pytest
import torch

from net import irn_loss, irn_pairs
from net.irn_loss import loss_sums, loss_terms, total_loss
from tests import reference
from tests.reference import relative
from tool.errors import InputError


def batch(seed: int = 0, size: tuple[int, int, int] = (3, 7, 9)):
    """Edge logits, displacements and labels, float64."""
    generator = torch.Generator().manual_seed(seed)
    b, h, w = size
    edge = torch.randn(b, 1, h, w, generator=generator, dtype=torch.float64)
    displacement = 3 * torch.randn(b, 2, h, w, generator=generator, dtype=torch.float64)
    known = torch.tensor([0, 0, 1, 2, 255], dtype=torch.uint8)
    label = known[torch.randint(5, (b, h, w), generator=generator)]
    return edge.requires_grad_(), displacement.requires_grad_(), label


def gradients(loss: torch.Tensor, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(loss, inputs)


def in_groups(monkeypatch, group: int) -> None:
    """Take so many offsets at a time, as CUDA and small maps do; none are offset by offset."""
    monkeypatch.setattr(irn_loss, "SMALL", 1000 if group else 0)
    monkeypatch.setattr(irn_pairs, "GROUP", group)
    monkeypatch.setattr(irn_pairs, "groups", unwrap(irn_pairs.groups))


# Pictures at once: 1 or 2, all; or offsets at once.
@pytest.mark.parametrize("form", [("CACHED", 150), ("CACHED", 1 << 14), ("GROUP", 16)])
@pytest.mark.parametrize(("radius", "size"), [(3, (3, 7, 9)), (10, (1, 12, 20))])
def test_all_losses_and_gradients_against_gathering(radius, size, form, monkeypatch):
    name, value = form
    in_groups(monkeypatch, value if name == "GROUP" else 0)
    if name == "CACHED":
        monkeypatch.setattr(irn_loss, "CACHED", value)
    edge, displacement, label = batch(size=size)
    weight = torch.arange(1, 6, dtype=torch.float64)
    expected = reference.loss_sums(edge, displacement, label, 3, radius)
    fused = loss_sums(edge, displacement, label, 3, radius)
    assert torch.equal(fused[1], expected[1])
    assert (fused[1] > 0).all()
    assert relative(fused[0], expected[0].detach()) < 1e-12
    found, plain = (gradients((s[0] * weight).sum(), edge, displacement) for s in (fused, expected))
    torch.testing.assert_close(found, plain, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("group", [0, 4])
def test_the_backward_pass_is_the_derivative(group, monkeypatch):
    """Numerically, in float64: offset by offset, and four offsets at a time."""
    in_groups(monkeypatch, group)
    edge, displacement, label = batch(size=(2, 4, 6))
    assert torch.autograd.gradcheck(
        lambda *maps: loss_sums(*maps, label, 3, 2)[0], (edge, displacement)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("contrast", [0, 1])
def test_both_forms_agree_where_edges_are_equal_or_rough(dtype, contrast, monkeypatch):
    """Of several largest cells one takes the gradient, so that its sum is the same."""
    edge, displacement, label = batch(size=(2, 12, 20))
    logits = (edge.detach() * contrast).to(dtype).requires_grad_()

    def compute(group):
        in_groups(monkeypatch, group)
        sums = loss_sums(logits, displacement.to(dtype), label, 3, 10)
        return *sums, gradients(total_loss(loss_terms(*sums)), logits)[0].double()

    sums, pairs, grad = compute(0)
    other_sums, other_pairs, other_grad = compute(16)
    assert torch.equal(pairs, other_pairs)
    assert relative(other_sums, sums.detach()) < 1e-5
    rounding = torch.finfo(dtype).eps * float(grad.abs().sum())
    assert abs(float(other_grad.sum() - grad.sum())) < rounding


def test_without_displacements_edges_get_the_same_sums_and_gradient():
    edge, displacement, label = batch(size=(3, 7, 9))
    both, alone = (loss_sums(edge, d, label, 3, 3) for d in (displacement, None))
    assert torch.equal(alone[1], both[1])
    assert relative(alone[0][:3], both[0][:3].detach()) < 1e-12
    assert not alone[0][3:].any()
    of_both, of_alone = (gradients(total_loss(loss_terms(*sums)), edge) for sums in (both, alone))
    assert torch.equal(of_alone[0], of_both[0])


def test_terms_by_hand():
    terms = loss_terms(torch.tensor([2.0, 6, 5, 8, 3]), torch.tensor([2.0, 2, 1, 4, 1]))
    torch.testing.assert_close(terms, torch.tensor([2.0, 5, 2, 3]), rtol=1e-4, atol=0)
    assert float(total_loss(terms)) == pytest.approx(6, rel=1e-4)


def test_nothing_known_is_no_loss():
    edge, displacement, label = batch()
    numerators, denominators = loss_sums(edge, displacement, torch.full_like(label, 255), 3, 3)
    loss = total_loss(loss_terms(numerators, denominators))
    assert float(loss.detach()) == 0
    assert not denominators.any()
    assert not any(grad.any() for grad in gradients(loss, edge, displacement))


def test_saturated_edges_stay_finite():
    edge, displacement, label = batch()
    for extreme in (200.0, -200.0):
        logits = torch.full_like(edge, extreme).detach().float().requires_grad_()
        loss = total_loss(loss_terms(*loss_sums(logits, displacement.float(), label, 3, 3)))
        assert loss.isfinite()
        assert gradients(loss, logits)[0].isfinite().all()


def test_small_window_is_refused():
    edge, displacement, label = batch(size=(1, 9, 30))
    with pytest.raises(InputError, match="larger window"):
        loss_sums(edge, displacement, label, 3, 10)
