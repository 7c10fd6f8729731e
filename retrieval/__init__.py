"""Search over encoded passages with exact MaxSim."""
