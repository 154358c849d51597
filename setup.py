"""Packaging of hstpeft; the project's metadata lives here, tool settings in pyproject.toml."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
# Scripts that only make sense in a checkout: they install environments from requirements/.
CHECKOUT_ONLY = ('_env.sh', 'quickstart.sh', 'run_tests.sh')


def version():
    text = (ROOT / 'hstpeft' / 'version.py').read_text(encoding='utf-8')
    return re.search(r"^__version__ = '([^']+)'", text, re.MULTILINE).group(1)


def pins(name, *prefixes):
    """The lines of a requirement file that start with one of the prefixes (all, if none is given)."""
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text(encoding='utf-8').splitlines()
    return [line for line in lines if line and line[0] != '#' and line.startswith(prefixes or '')]


class BuildWithMim(build_py):
    """Ships configs, tools and the model index under hstpeft/.mim, where OpenMMLab's tools look for them."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        mim = Path(self.build_lib) / 'hstpeft' / '.mim'
        shutil.rmtree(mim, ignore_errors=True)  # a former build may hold files that are gone
        for name in ('configs', 'tools'):
            if (ROOT / name).is_dir():
                skip = shutil.ignore_patterns('__pycache__', *CHECKOUT_ONLY)
                shutil.copytree(ROOT / name, mim / name, ignore=skip)
        if (ROOT / 'model-index.yml').is_file():
            mim.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / 'model-index.yml', mim)


readme = ROOT / 'README.md'
onedl = pins('runtime', 'onedl-', 'transformers')
setup(
    name='hstpeft',
    version=version(),
    description='Parameter-efficient fine-tuning of vision transformers for OpenMMLab',
    long_description=readme.read_text(encoding='utf-8') if readme.is_file() else '',
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    packages=find_packages(include=['hstpeft', 'hstpeft.*']),
    package_data={'hstpeft.models.trunks': ['support.json']},
    python_requires='>=3.11',
    # Nothing that an OpenMMLab line owns: the original and the maintained line share module names, and pip would
    # let one overwrite the other. The lower bounds are the oldest versions that the tests of delta files, models,
    # resuming and apis passed with, together, on Python 3.11; timm 1.0.30 fails those of Swin.
    install_requires=[
        'torch>=2.6',
        'timm>=1.0.31,<2',
        'safetensors>=0.4.3',
        'numpy>=1.26.4',
        'rich',
    ],
    extras_require={
        'onedl': onedl,
        'det': onedl + pins('det', 'onedl-', 'imaug', 'pycocotools', 'opencv-'),
        'lora': pins('runtime', 'peft', 'transformers'),
        'test': pins('test'),
    },
    cmdclass={'build_py': BuildWithMim},
    zip_safe=False,
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
)
