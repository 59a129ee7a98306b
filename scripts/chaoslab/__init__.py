"""The ledger: real processes, a seeded schedule of faults, and three books that must agree afterwards."""
