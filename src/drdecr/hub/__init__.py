"""Models to the Hub, and from and to other formats."""
