"""Measurements that anyone can repeat: step times and time to accuracy."""
