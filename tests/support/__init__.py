"""What tests of several folders use: clients, hubs as processes, stand-ins, judges. No test module imports another."""
