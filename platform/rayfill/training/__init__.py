"""Training in three layers: the driver, the loop of one worker, and what one step does."""
