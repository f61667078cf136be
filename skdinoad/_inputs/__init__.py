"""What X and y may hold: images, grids of patch features, labels."""
