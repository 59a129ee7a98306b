"""All scenarios, in the order in which they are told."""

from scripts.simulation.compare import limited, speed, trouble
from scripts.simulation.compare.scenario import Scenario

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario for scenario in (*speed.SCENARIOS, *trouble.SCENARIOS, *limited.SCENARIOS)
}
