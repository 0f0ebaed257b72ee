"""End to end: scenarios with the official SDK and a raw worker. Read registry, environment, scenarios/, test_scenarios."""
