"""The best inpainting model behind HTTP and a brush page, on Ray Serve."""
