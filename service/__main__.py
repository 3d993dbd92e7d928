"""``python -m service`` is ``holdfast``."""

from service.cli.parser import main

if __name__ == "__main__":
    main()
