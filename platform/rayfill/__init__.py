"""Train, compare and use image-inpainting models that remove objects from photographs.

The names of ``__init__.pyi`` are imported when they are first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
