"""The tables of tuners, docs/tuners.md and the README's, say what the code does."""

import inspect
import re
from typing import NamedTuple

import pytest
import torch
from mmengine.config import Config

from hstpeft.errors import UserError
from hstpeft.models import tuners
from tests.support import families, matrix, models
from tests.support.paths import ROOT

PARTS = ROOT / 'configs' / '_base_' / 'tuners'
VIT = dict(
    type='hstpeft.ViTTrunk', arch='vit_base_patch16_224', arch_options=dict(weight_init='skip')
)
NAMES = {'vit': 'ViT', 'eva': 'Eva', 'swin': 'Swin', 'hvt': 'HVT'}


class Row(NamedTuple):
    """A row of docs/tuners.md, by its columns."""

    part: str
    tuner: str
    paper: str
    place: str
    trunks: str
    trained: str
    starts: str
    merges: str


def rows(page: str, first: str) -> list[list[str]]:
    """Read the cells of the table whose head begins so."""
    table = (ROOT / page).read_text().split(f'\n| {first} |')[1].split('\n\n')[0]
    return [[c.strip() for c in line.strip('|').split(' | ')] for line in table.splitlines()[2:]]


ROWS = [Row(*cells) for cells in rows('docs/tuners.md', 'part')]
KINDS = {
    name
    for name in tuners.__all__
    if name.endswith('Tuner') and name not in ('Tuner', 'CombinedTuner')
}


def config_of(row: Row) -> dict:
    """Read the part of a row, whose name and path must agree."""
    name, path = re.fullmatch(r'\[(.*)\]\(\.\./(.*)\)', row.part).groups()
    assert ROOT / path == PARTS / f'{name}.py'
    return Config.fromfile(ROOT / path).tuner.to_dict()


def trunks_of(kind: str) -> str:
    """Say on which trunks the matrix has a tuner."""
    found = {trunks for config, trunks in matrix.TUNERS.values() if config['type'] == kind}
    trunks = max(found, key=len)
    return 'all' if trunks == matrix.EVERY else ', '.join(NAMES[trunk] for trunk in trunks)


def test_every_part_and_every_tuner_has_a_row():
    assert [row.part[1:].split(']')[0] for row in ROWS] == sorted(
        p.stem for p in PARTS.glob('*.py')
    )
    assert {row.tuner.strip('`') for row in ROWS} == KINDS
    told = [cells[0].strip('`').removeprefix('hstpeft.') for cells in rows('README.md', 'tuner')]
    assert sorted(told) == sorted(KINDS)


def test_the_readme_tells_the_trunks_of_each_tuner():
    for cells in rows('README.md', 'tuner'):
        assert cells[1] == trunks_of(cells[0].strip('`')), cells[0]


@pytest.mark.filterwarnings('ignore:Specified to not save vera_A')
@pytest.mark.parametrize('row', ROWS, ids=lambda row: row.part[1:].split(']')[0])
def test_a_row_says_what_its_part_does(row):
    config = config_of(row)
    kind = getattr(tuners, row.tuner.strip('`'))
    assert config['type'] == f'hstpeft.{kind.__name__}'
    assert row.trunks == trunks_of(config['type'])
    link = re.search(r'arxiv\.org/abs/[\d.]+', row.paper)
    # HF peft has a paper for each method, of which parts name two.
    named = link is None or link[0] in inspect.getsource(inspect.getmodule(kind))
    assert named or config['type'] == 'hstpeft.HFPeftTuner'
    with torch.device('meta'):
        built = models.build(
            dict(type='hstpeft.TunedBackbone', trunk=dict(VIT), tuner=config), None
        )
    trained = sum(p.numel() for p in built.parameters() if p.requires_grad)
    assert row.trained == f'{trained:,}'
    image, tuned = models.images(1, 3, 32, 32), families.tuned('vit', config)
    own, bare = tuned(image)[-1], families.tuned('vit', families.FROZEN)(image)[-1]
    same = torch.is_tensor(own) and own.shape == bare.shape and (own - bare).abs().max() < 1e-5
    assert row.starts == ('yes' if same else 'no')
    assert row.merges.split(',')[0] == ('yes' if merges(tuned) else 'no')
    if row.trunks == 'all':
        assert merges(families.tuned('swin', config)) == (row.merges == 'yes')


def merges(tuned: torch.nn.Module) -> bool:
    """Try to merge a backbone."""
    try:
        tuned.merge_tuner()
    except UserError:
        return False
    return True
