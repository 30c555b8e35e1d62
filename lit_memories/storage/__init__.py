"""What comes from disks and the hub, and goes there: read as if a stranger had made it, written whole or not at all."""
