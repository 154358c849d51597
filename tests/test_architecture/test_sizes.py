"""Files and functions stay small enough to be read top to bottom."""

import ast

from tests.support.paths import ROOT

MAX_FILE, MAX_FUNCTION = 250, 60
SOURCES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in sorted((ROOT / 'hstpeft').rglob('*.py'))
}


def functions(source: str) -> list[tuple[str, int]]:
    """Name and lines of every function of a file, methods and inner ones included."""
    return [
        (node.name, node.end_lineno - node.lineno + 1)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]


def test_no_file_is_long():
    lengths = {file: len(source.splitlines()) for file, source in SOURCES.items()}
    assert not {file: lines for file, lines in lengths.items() if lines > MAX_FILE}


def test_no_function_is_long():
    found = [(file, *each) for file, source in SOURCES.items() for each in functions(source)]
    assert len(found) > len(SOURCES)
    assert not [each for each in found if each[-1] > MAX_FUNCTION]


def test_lines_are_counted_of_every_function_to_its_end():
    source = (
        'class A:\n    def a(\n        self,\n    ):\n        def b(): ...\n\n        return b\n'
    )
    assert functions(source + 'def a(): ...\n') == [('a', 1), ('a', 6), ('b', 1)]
