"""Trunks compared with timm by name: a few here, all in the slow test, and the page about them."""

import pytest
import timm

from hstpeft.errors import UserError
from hstpeft.models import ViTTrunk
from hstpeft.models.trunks import support
from tools import trunk_table
from tools.trunk_table_parts import page
from tools.trunk_table_parts.compare import FAMILIES, LIMIT, compare, family_names

VERSION, TABLE = support.read_support()
NAMES = family_names()
# One of each kind of block, embedding and pooling.
VARIANTS = (
    'aimv2_large_patch14_224',
    'vit_base_patch14_reg4_dinov2',
    'vit_base_patch16_clip_quickgelu_224',
    'vit_base_patch16_siglip_224',
    'swin_s3_tiny_224',
    'eva02_base_patch14_224',
    'eva02_small_patch14_224',
    'vit_base_patch16_dinov3',
    'vit_base_patch16_lingbot',
    'vit_huge_plus_patch16_dinov3',
    'vit_pe_core_base_patch16_224',
    'vit_small_patch16_rope_mixed_ape_224',
)
REMAKE = 'stale: python tools/trunk_table.py'


def without_digits(row: support.Support) -> support.Support:
    """Leave out the difference, whose digits are the processor's."""
    return row._replace(difference=None)


def test_the_table_has_the_names_of_timm():
    assert timm.__version__ == VERSION, REMAKE
    assert TABLE.keys() == NAMES.keys(), REMAKE
    assert len(NAMES) == 347 and sum(NAMES[arch] in FAMILIES for arch in NAMES) == 253


@pytest.mark.parametrize('arch', VARIANTS)
def test_a_trunk_equals_timm(arch):
    row = compare(arch, NAMES[arch])
    assert row.difference <= LIMIT
    assert without_digits(row) == without_digits(TABLE[arch]), REMAKE


@pytest.mark.slow
def test_every_name_is_what_the_table_says():
    for arch, module in NAMES.items():
        row = compare(arch, module)
        assert without_digits(row) == without_digits(TABLE[arch]), REMAKE
        assert row.difference is None or row.difference <= LIMIT, arch


def test_every_row_of_the_table_says_something():
    for row in TABLE.values():
        if row.trunk:
            assert 0 <= row.difference <= LIMIT and not row.reason, row
        else:
            assert row.difference is None and row.reason and row.remedy, row
    assert {row.family for row in TABLE.values() if row.trunk} == {'ViT', 'Eva', 'Swin'}


def nearly(method):
    """Change what a method gives by a ten-thousandth."""

    def changed(*args, **kwargs):
        given = method(*args, **kwargs)
        if isinstance(given, dict):
            return {**given, 0: given[0] * 1.0001}
        return given * 1.0001

    return changed


@pytest.mark.parametrize('method', ['run', 'final_norm', 'pool'])
def test_a_small_difference_at_any_place_is_seen(method, monkeypatch):
    arch = 'vit_base_patch16_gap_224'
    monkeypatch.setattr(ViTTrunk, method, nearly(getattr(ViTTrunk, method)))
    assert compare(arch, NAMES[arch]).difference > LIMIT


@pytest.fixture
def files(monkeypatch, tmp_path):
    """Let the tool write copies of the table and the page."""
    copies = {}
    for module, name in ((trunk_table, 'FILE'), (trunk_table, 'PAGE')):
        original = getattr(module, name)
        copies[name] = tmp_path / original.name
        copies[name].write_text(original.read_text())
        monkeypatch.setattr(module, name, copies[name])
    monkeypatch.setattr(support, 'FILE', copies['FILE'])
    return copies


def use(monkeypatch, **changed):
    """Let the tool find these results instead of comparing."""
    monkeypatch.setattr(trunk_table, 'compare', lambda arch, _: {**TABLE, **changed}[arch])


def test_the_committed_table_and_page_are_what_the_tool_writes(files, monkeypatch, capsys):
    use(monkeypatch)
    before = {name: path.read_bytes() for name, path in files.items()}
    for path in files.values():
        path.write_text(path.read_text().replace('aimv2_1b_patch14_224', 'aimv2_1b_patch14_223'))
    assert trunk_table.main([]) == 0
    after = {name: path.read_bytes() for name, path in files.items()}
    assert after == before, f'{REMAKE} --page'
    runs = sum(row.trunk is not None for row in TABLE.values())
    assert f'{runs} names run, {len(TABLE) - runs} are refused, 0 differ' in capsys.readouterr().out


def test_what_differs_is_named_and_nothing_is_written(files, monkeypatch, capsys):
    arch = 'flexivit_base'
    use(monkeypatch, **{arch: TABLE[arch]._replace(difference=float('nan'))})
    before = {name: path.read_bytes() for name, path in files.items()}
    assert trunk_table.main([]) == 1
    assert {name: path.read_bytes() for name, path in files.items()} == before
    shown = capsys.readouterr().out
    assert arch in shown and '1 differ from timm' in shown and 'flexivit_small' not in shown


def test_a_pattern_of_names_compares_these_alone(files, capsys):
    before = files['FILE'].read_bytes()
    assert trunk_table.main(['--names', 'flexivit_s*']) == 0
    assert '1 names run, 0 are refused' in capsys.readouterr().out
    assert files['FILE'].read_bytes() == before
    with pytest.raises(UserError, match='fits no name'):
        trunk_table.main(['--names', 'flexi'])


def test_a_page_without_a_mark_is_refused():
    text = page.PAGE.read_text().replace('<!-- end of summary -->', '')
    with pytest.raises(AssertionError, match='one pair of marks for summary'):
        page.render(text, VERSION, TABLE)


def test_every_model_on_the_page_has_a_group_and_no_group_is_empty():
    found = {page.group_of(row.arch) for row in TABLE.values() if row.trunk}
    assert found == {title for title, _ in page.GROUPS}
