"""Writes docs/reliability.md from a test run: ``pytest --write-reliability``.

Only a run of all tests has a result for each; a test that a run leaves out stands as `not run`.
"""

import ast
import json
import platform
import re
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import mmengine
import pytest
import torch

from hstpeft.version import __version__
from tests.support.paths import ROOT
from tests.support.reliability_cases import CASES
from tools.measure import commit, processor

DOCUMENT = ROOT / 'docs' / 'reliability.md'
SOAK = ROOT / 'docs' / 'benchmarks' / 'soak.json'
_NAME = re.compile(r'test_((?:[RCNDXUS]\d{1,2}_)+)(\w+)')
_LINK = re.compile(r'\[([^]]+)\]\(\.\./(tests/[^)]+)\)')

HEAD = """# Reliability

What a user can rely on when a run is interrupted, a file is damaged or hostile, or a setting is wrong:
{count} cases, the tests of each, and what became of them. Written by the test run itself
(`bash tools/run_tests.sh --write-reliability`), not by hand.

* **Cases**: {cases}
* **Whole suite**: {result}
* **When**: {date}, on top of commit {commit}, in {minutes:.0f} minutes
* **Where**: {processor}; {gpu}
* **Versions**: {versions}
* **Soak** ([tools/soak.py](../tools/soak.py)): {soak}
"""


class Shown(NamedTuple):
    """A test that shows a case: its file below the root, and its name without ``test_``."""

    file: str
    name: str

    @property
    def words(self) -> str:
        """What it shows."""
        return _NAME.fullmatch(f'test_{self.name}')[2].replace('_', ' ')

    @property
    def link(self) -> str:
        """To its file, in Markdown."""
        return f'[{self.words}](../{self.file})'


def cases_of(name: str) -> list[str]:
    """Return the cases that a test's name begins with."""
    match = _NAME.fullmatch(name)
    return match[1].strip('_').split('_') if match else []


def find_tests(folder: Path = ROOT / 'tests') -> dict[str, list[Shown]]:
    """Find the tests of each case, without running or importing anything."""
    found = defaultdict(list)
    for path in sorted(folder.rglob('test_*.py')):
        file = path.relative_to(folder.parent).as_posix()
        nodes = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)]
        for node in sorted(nodes, key=lambda node: node.lineno):
            for case in cases_of(node.name):
                found[case].append(Shown(file, node.name.removeprefix('test_')))
    return dict(found)


def read_document(text: str) -> dict[str, set[tuple[str, str]]]:
    """Return what a document names: case -> (words, file) of its tests."""
    rows = [line.split(' | ') for line in text.splitlines() if line.startswith('| ')]
    named = {cells[0].strip('| '): set(_LINK.findall(cells[-1])) for cells in rows}
    return {case: links for case, links in named.items() if cases_of(f'test_{case}_x')}


class ReliabilityTable:
    """A plugin that gathers the outcomes of a run and writes the document at its end."""

    def __init__(self) -> None:
        self.start = time.time()
        self.outcomes: dict[str, str] = {}  # of every test, each set of parameters by itself
        self.reasons: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the worst of setup, call and teardown."""
        if report.failed:
            self.outcomes[report.nodeid] = 'failed'
        elif report.skipped:
            self.outcomes[report.nodeid] = 'skipped'
            reason = (
                report.longrepr[2] if isinstance(report.longrepr, tuple) else 'expected failure'
            )
            self.reasons[report.nodeid] = reason.removeprefix('Skipped: ')
        elif report.when == 'call':
            self.outcomes[report.nodeid] = 'passed'

    def pytest_sessionfinish(self) -> None:
        """Write the document."""
        DOCUMENT.write_text(self.render(find_tests()))

    def render(self, tests: dict[str, list[Shown]]) -> str:
        """Lay out the document."""
        all_cases = [case for cases in CASES.values() for case in cases]
        versions = dict(hstpeft=__version__, Python=platform.python_version())
        versions |= {'torch': torch.__version__, 'mmengine': mmengine.__version__}
        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU'
        lines = [
            HEAD.format(
                count=len(all_cases),
                cases=_told(_count(self.case_result(tests.get(case, [])) for case in all_cases)),
                result=_told(_count(self.outcomes.values())),
                date=time.strftime('%Y-%m-%d'),
                commit=commit() or 'unknown',
                minutes=(time.time() - self.start) / 60,
                processor=processor(),
                gpu=gpu,
                versions=', '.join(f'{name} {version}' for name, version in versions.items()),
                soak=soak_line(SOAK),
            )
        ]
        for topic, cases in CASES.items():
            lines += [f'## {topic}\n', '| Case | What must hold | Result | Tests |']
            lines += ['|:-----|:---------------|:-------|:------|']
            for case, title in cases.items():
                shown = tests.get(case, [])
                told = '<br>'.join(f'{test.link}: {self.test_result(test)}' for test in shown)
                lines.append(f'| {case} | {title} | {self.case_result(shown)} | {told} |')
            lines.append('')
        return '\n'.join(lines).rstrip() + '\n'

    def case_result(self, tests: list[Shown]) -> str:
        """Say whether a case holds: the worst of its tests decides, one that passed is needed."""
        outcomes = [[self.outcomes[node] for node in self.nodes(test)] for test in tests]
        flat = [outcome for each in outcomes for outcome in each]
        if 'failed' in flat:
            return '**fails**'
        if not all(outcomes) or not flat:
            return '**not run**'
        return 'holds' if 'passed' in flat else 'skipped'

    def test_result(self, test: Shown) -> str:
        """Say what became of a test: of all its parameters, counted where they are several."""
        nodes = self.nodes(test)
        counts = _count(self.outcomes[node] for node in nodes)
        told = [f'{what} {n}' if len(nodes) > 1 else what for what, n in counts.items()]
        reasons = sorted({_cell(self.reasons[node]) for node in nodes if node in self.reasons})
        return ', '.join(told) + (f' ({"; ".join(reasons)})' if reasons else '') or 'not run'

    def nodes(self, test: Shown) -> list[str]:
        """Return the ids of all that ran of a test."""
        pattern = re.compile(rf'{re.escape(test.file)}::(\w+::)*test_{test.name}(\[.*)?', re.DOTALL)
        return [node for node in self.outcomes if pattern.fullmatch(node)]


def soak_line(path: Path) -> str:
    """Tell a soak's summary in a line."""
    if not path.is_file():
        return 'not run'
    summary = json.loads(path.read_text())
    parts = [_told_part(name, part) for name, part in summary['parts'].items()]
    where = f'seed {summary["seed"]}, {summary["date"]}, {summary["processor"]}'
    return f'{"; ".join(parts)} ([{where}](benchmarks/{path.name}))'


def _told_part(name: str, part: dict[str, Any]) -> str:
    counts = {key: part[key] for key in ('refused', 'harmless') if key in part}
    told = [f'{number:,} {key}' for key, number in counts.items()]
    failed = len(part['failures'])
    told.append(f'**{failed:,} failed**' if failed else 'none failed')
    return f'{part["count"]:,} {name}: {", ".join(told)}'


def _count(outcomes: Iterable[str]) -> dict[str, int]:
    """Count outcomes, the good ones first."""
    outcomes = list(outcomes)
    kinds = ('passed', 'holds', 'skipped', 'failed', '**fails**', '**not run**')
    return {kind: outcomes.count(kind) for kind in kinds if kind in outcomes}


def _told(counts: dict[str, int]) -> str:
    told = [f'{number:,} {what}' for what, number in counts.items()]
    return ', '.join(told).replace('holds', 'hold').replace('fails', 'fail') or 'nothing was run'


def _cell(text: str) -> str:
    return ' '.join(text.replace('|', r'\|').split())
