"""docs/trunks.md: what is made of the table stands between marks, the rest is written by hand."""

import fnmatch
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import timm
from mmengine.config import Config

from hstpeft.apis.trunks import defined_tuners
from hstpeft.models.trunks import CAPABILITIES
from hstpeft.models.trunks.support import Support
from hstpeft.registry import MODELS
from tools.trunk_table_parts.compare import LIMIT, RELATIVES

ROOT = Path(__file__).resolve().parents[2]
PAGE, PARTS = ROOT / 'docs' / 'trunks.md', ROOT / 'configs' / '_base_' / 'trunks'
GROUPS = (
    ('AIMv2', 'aimv2_*'),
    ('BEiT-3', 'beit3_*'),
    ('CLIP, DFN, MetaCLIP', 'vit_*_clip_*'),
    ('DeiT', 'deit_*'),
    ('DeiT III', 'deit3_*'),
    ('DINOv2 with registers', 'vit_*_reg4_dinov2'),
    ('DINOv2', 'vit_*_dinov2'),
    ('DINOv3, EUPE', 'vit_*_dinov3*'),
    ('EVA', 'eva_*'),
    ('EVA-02', 'eva02_*'),
    ('FlexiViT', 'flexivit_*'),
    ('InternViT', 'vit_intern*'),
    ('LingBot', 'vit_*_lingbot'),
    ('Perception Encoder, core', 'vit_pe_core_*'),
    ('Perception Encoder, language', 'vit_pe_lang_*'),
    ('Perception Encoder, spatial', 'vit_pe_spatial_*'),
    ('RADIO', 'vit_*_radio_*'),
    ('Sapiens 2', 'vit_*_sapiens2'),
    ('SigLIP, SigLIP 2', 'vit_*_siglip_*'),
    ('TIPSv2', 'vit_*_tipsv2'),
    ("timm's test models", 'test_vit*'),
    ('rotary position embedding', 'vit_*_rope_*'),
    ('averaged patches, I-JEPA, registers', 'vit_*_gap_*'),
    ('attention pooling, registers', 'vit_*_map_*'),
    ('Swin', 'swin_*_window*'),
    ('Swin S3 (AutoFormerV2)', 'swin_s3_*'),
    ('AugReg, MAE, DINO, ImageNet', 'vit_*'),
)
"""Models by what they are called, and the pattern of their names; the first that fits counts."""


def render(text: str, version: str, table: dict[str, Support]) -> str:
    """Put the sections that are made of the table into a page.

    Args:
        text: The page, with a pair of marks for each section.
        version: Of timm.
        table: Rows by name.
    """
    sections: dict[str, Callable[[], Iterable[str]]] = {
        'summary': lambda: _summary(version, table),
        'recipes': _recipes,
        'supported': lambda: _supported(table),
        'tuners': lambda: _tuners(table),
        'refused': lambda: _refused(table),
        'names': lambda: _names(table),
    }
    for name, make in sections.items():
        start, end = f'<!-- {name}: made by tools/trunk_table.py -->', f'<!-- end of {name} -->'
        pattern = re.compile(f'{re.escape(start)}.*?{re.escape(end)}', re.S)
        assert len(pattern.findall(text)) == 1, f'{PAGE} must have one pair of marks for {name}'
        made = '\n'.join([start, '', *make(), '', end])
        text = pattern.sub(lambda _, made=made: made, text)
    return text


def group_of(arch: str) -> str:
    """Return what a model is called."""
    return next(title for title, pattern in GROUPS if fnmatch.fnmatchcase(arch, pattern))


def _summary(version: str, table: dict[str, Support]) -> Iterable[str]:
    compared = [row for row in table.values() if row.trunk]
    worst = max(row.difference for row in compared)
    relatives = {family for family, _ in RELATIVES.values()}
    refused = [row for row in table.values() if not row.trunk]
    cousins = sum(row.family in relatives for row in refused)
    yield (
        f'timm {version}: **{len(compared)} names run** and equal timm to {LIMIT:.0e} (the greatest '
        f'difference is {worst:.0e} of the greatest value); {len(refused) - cousins} names of the '
        f'same families and {cousins} of {len(relatives)} related families are refused.'
    )


def _recipes() -> Iterable[str]:
    rows = []
    for path in sorted(PARTS.glob('*.py')):
        part = Config.fromfile(path)
        name = f'{part.trunk.arch}.{part.trunk.get("weights")}'
        if timm.models.is_model_pretrained(name):
            known = timm.models.get_pretrained_cfg(name)
            mean, std = (
                ', '.join(f'{value:.4g}' for value in values)
                for values in (part.img_norm.mean, part.img_norm.std)
            )
            link = f'[{path.stem}](../configs/_base_/trunks/{path.name})'
            width = part.get('embed_dims') or part.stage_dims[-1]
            kind = part.trunk.type.removeprefix('hstpeft.')
            rows.append([link, kind, f'`{name}`', width, mean, std, known.license or '-'])
    header = ['part', 'trunk', 'timm name.tag', 'width', 'mean', 'std', 'licence of the weights']
    return _table(header, rows)


def _supported(table: dict[str, Support]) -> Iterable[str]:
    groups = defaultdict(list)
    for row in table.values():
        if row.trunk:
            groups[row.trunk, group_of(row.arch)].append(row)
    patterns = dict(GROUPS)
    rows = [
        [
            f'`{trunk}`',
            title,
            f'`{patterns[title]}`',
            len(found),
            _share(row.class_token for row in found),
            _share(row.maps for row in found),
        ]
        for (trunk, title), found in sorted(groups.items())
    ]
    return _table(['trunk', 'models', 'names', 'number', 'class token', 'dense'], rows)


def _tuners(table: dict[str, Support]) -> Iterable[str]:
    kinds = {
        name: MODELS.get(name) for name in sorted({r.trunk for r in table.values() if r.trunk})
    }
    defined = {name: defined_tuners(kind) for name, kind in kinds.items()}
    ours = [t for t in defined_tuners(_Everything) if _is_shipped(t)]
    rows = [
        [
            f'`{tuner}`',
            ', '.join(f'`{need}`' for need in MODELS.get(tuner).needs) or '-',
            *('yes' if tuner in defined[name] else 'no' for name in kinds),
        ]
        for tuner in ours
    ]
    return _table(['tuner', 'needs', *(f'`{name}`' for name in kinds)], rows)


class _Everything:
    """What a trunk with every capability would be."""

    capabilities = frozenset(CAPABILITIES)


def _is_shipped(tuner: str) -> bool:
    return MODELS.get(tuner).__module__.startswith('hstpeft.models.tuners.')


def _refused(table: dict[str, Support]) -> Iterable[str]:
    groups = defaultdict(list)
    for row in table.values():
        if not row.trunk:
            groups[row.family, row.reason, row.remedy].append(row.arch)
    modules = {family: module for module, (family, _) in RELATIVES.items()}
    rows = [
        [
            family,
            f'all of `timm.models.{modules[family]}`'
            if family in modules
            else ', '.join(f'`{arch}`' for arch in names),
            len(names),
            reason,
            remedy,
        ]
        for (family, reason, remedy), names in sorted(groups.items())
    ]
    return _table(['family', 'names', 'number', 'reason', 'remedy'], rows)


def _names(table: dict[str, Support]) -> Iterable[str]:
    rows = [
        [f'`{row.arch}`', f'`{row.trunk}`', _yes(row.class_token), f'{row.difference:.0e}']
        for row in sorted(table.values())
        if row.trunk
    ]
    return _table(['name', 'trunk', 'class token', 'difference'], rows)


def _table(header: Sequence[str], rows: Iterable[Sequence]) -> list[str]:
    lines = [header, ['---'] * len(header), *rows]
    return [f'| {" | ".join(map(str, line))} |' for line in lines]


def _share(values: Iterable[bool]) -> str:
    values = list(values)
    return _yes(values[0]) if len(set(values)) == 1 else f'{sum(values)} of {len(values)}'


def _yes(value: bool) -> str:
    return 'yes' if value else 'no'
