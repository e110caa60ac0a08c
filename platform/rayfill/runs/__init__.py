"""What is kept of a run: folders, checkpoints, bundles, records in MLflow and the registry."""
