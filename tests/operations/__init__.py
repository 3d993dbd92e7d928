"""What somebody who runs the service meets: commands, migrations, failures, figures, SQL files."""
