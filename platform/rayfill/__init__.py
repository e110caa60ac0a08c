"""Train, compare and use image-inpainting models that remove objects from photographs."""
