"""What tests of several folders use: clients, hubs as processes, simulators, checks. No test module imports another."""
