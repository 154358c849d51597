"""Frozen parameters that are equal are held once."""

import torch
from torch import nn

from hstpeft.delta.sharing import index_by_content, share_frozen


def make(frozen: bool = True) -> nn.Sequential:
    """Two layers whose biases are equal, and the first layer once more."""
    torch.manual_seed(0)
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    for layer in (first, second):
        nn.init.zeros_(layer.bias)
    model = nn.Sequential(nn.Sequential(first, second), first)
    return model.requires_grad_(not frozen)


def test_each_parameter_takes_the_place_of_an_equal_one_wherever_that_stands():
    held, model = make(), make()
    share_frozen(model, model[0], index_by_content(held.parameters()))
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    assert [*dict(held.named_parameters(remove_duplicate=False))] == names
    own, theirs = (dict(m.named_parameters(remove_duplicate=False)) for m in (model, held))
    assert all(own[name] is theirs[name] for name in names)
    assert own['0.0.bias'] is not own['0.1.bias'], 'two places of one state dict stay two'


def test_what_is_trained_or_differs_stays_the_models_own():
    held, model = make(), make()
    with torch.no_grad():
        model[0][0].weight[0, 0] += 1e-6
    model[0][1].weight.requires_grad_(True)
    model[0][1].bias.data = model[0][1].bias.double()
    before = dict(model.named_parameters())
    share_frozen(model, model[0], index_by_content(held.parameters()))
    changed = {name for name, p in model.named_parameters() if p is not before[name]}
    assert changed == {'0.0.bias'}
