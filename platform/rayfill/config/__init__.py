"""What a run is: its sections, checks and presets."""
