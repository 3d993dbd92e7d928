"""What the tests stand on: databases, services, clients, tools. No tests."""
