"""Where a model and its inputs come from: specs, factories, shape strings, the model itself."""
