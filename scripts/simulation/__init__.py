"""A deterministic simulator that runs the shipping core and session: virtual clock, seeded chance, simulated
network, disks and SMTP servers. `scripts/simulate --help`."""
