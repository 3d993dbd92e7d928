"""Tests of running the service: commands, migrations, failures, monitoring, SQL files."""
