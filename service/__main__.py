"""``python -m service`` is ``holdfast``."""

from service.commands import main

if __name__ == "__main__":
    main()
