"""Pictures of what a pipeline gives and of what a model predicts."""

from hstpeft.visualization.hook import PicturesHook
from hstpeft.visualization.pictures import (
    PictureFolder,
    build_visualizer,
    read_picture,
    to_picture,
)

__all__ = ['PictureFolder', 'PicturesHook', 'build_visualizer', 'read_picture', 'to_picture']
