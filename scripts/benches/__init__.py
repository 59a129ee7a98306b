"""Measurements, one command a question. Everything that README and docs say of speed comes from here."""
