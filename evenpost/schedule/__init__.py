"""Rates and sending windows as people write them: what clients check and the broker keeps to."""
