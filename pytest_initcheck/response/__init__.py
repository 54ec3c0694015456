"""A probed model is pushed (disturbed, stepped, fitted), and how its function answers is recorded."""
