"""scripts/simulate compare: the shipping balancer against others, in the same simulated installations."""
