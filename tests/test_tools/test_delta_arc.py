"""`tools/delta.py merge` on ARC: folded on a ViT and, attention alone, on a Swin; else refused."""

import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from hstpeft.apis import init_model
from tests.support.arc_pair import case_images, case_of, classifier, make_pair
from tools.delta import main

CASES = {
    'ViT': dict(depth=3),
    'Swin, attention': dict(depths=(2, 2), positions=('attention',)),
    'Swin': dict(depths=(2, 2)),
}


def make_delta(name: str, folder: Path) -> tuple[Path, Path]:
    """Write trunk, config and delta of a case; returns the last two."""
    model, _, _ = make_pair(CASES[name])
    net = model.float().backbone.trunk.net
    save_file({key: p.detach() for key, p in net.named_parameters()}, folder / 'trunk.safetensors')
    config = classifier(case_of(CASES[name]), str(folder / 'trunk.safetensors'))
    leaf, delta = folder / 'leaf.py', folder / 'delta.pth'
    leaf.write_text(f"default_scope = 'mmpretrain'\nmodel = {config!r}\n")
    torch.save({'state_dict': model.state_dict()}, delta)
    return leaf, delta


@pytest.mark.parametrize('name', ['ViT', 'Swin, attention'])
def test_merge_prints_the_change_of_the_logits_and_writes_the_trunk(name, tmp_path, capsys):
    leaf, delta = make_delta(name, tmp_path)
    output = tmp_path / 'merged.safetensors'
    main(['merge', str(leaf), str(delta), str(output)])
    shown = capsys.readouterr().out
    for what in ('logit', 'feature'):
        assert float(re.search(rf'max\|delta {what}\| = (\S+)', shown)[1]) < 1e-4
    call = re.search(r'^timm\.create_model\(.*\)$', shown, re.MULTILINE)[0]
    assert eval(call, {'timm': timm}).state_dict().keys() == load_file(output).keys()
    before, merged = load_file(tmp_path / 'trunk.safetensors'), load_file(output)
    assert merged.keys() == before.keys()
    moved = {key for key in merged if not merged[key].equal(before[key])}
    linears = ('attn.qkv',) if 'Swin' in name else ('attn.qkv', 'mlp.fc1')
    assert moved == {key for key in merged if key.rpartition('.')[0].endswith(linears)}
    model = init_model(leaf, delta, 'cpu')
    options = {'model.backbone.trunk.weights': str(output)}
    plain = init_model(leaf, None, 'cpu', options)
    for parameter in plain.backbone.tuner.parameters():
        torch.nn.init.zeros_(parameter)
    image = case_images(CASES[name]).float()
    with torch.no_grad():
        torch.testing.assert_close(
            plain.backbone(image)[0], model.backbone(image)[0], rtol=0, atol=1e-4
        )


def test_merge_of_mlp_adapters_on_a_swin_ends_with_one_line(tmp_path, capsys):
    leaf, delta = make_delta('Swin', tmp_path)
    with pytest.raises(SystemExit, match='1'):
        main(['merge', str(leaf), str(delta), str(tmp_path / 'merged.safetensors')])
    assert not (tmp_path / 'merged.safetensors').exists()
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith('delta.py: error: ARCTuner cannot be merged into a Swin')
    assert "tuner.positions=['attention']" in line
