"""Input validation: images, grids of patch features and labels."""
