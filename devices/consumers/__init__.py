"""What answers devices: one consumer for each way they connect, and what the three share."""
