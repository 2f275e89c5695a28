"""The lab: a simulated fleet, real servers on loopback, and the demo that heals one fault end to end."""
