"""Where samples come from: one file per source, and the table of them."""
