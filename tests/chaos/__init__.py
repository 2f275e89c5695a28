"""The random adversary: reproducible schedules of misfortune on the simulated fleet, judged from its own truth."""
