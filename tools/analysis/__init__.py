"""Tools that look into a trained model."""
