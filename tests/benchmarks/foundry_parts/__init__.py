"""What ``foundry.py`` draws from: tasks, families of architectures, initializations and faults, and the training that labels them."""
