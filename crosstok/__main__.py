"""The command ``crosstok`` as ``python -m crosstok``."""

from crosstok.harness.cli.app import main

if __name__ == "__main__":
    main()
