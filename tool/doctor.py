"""``python -m tool.doctor``: look at everything before hours of computing, see data/doctor."""

import runpy

if __name__ == "__main__":
    runpy.run_module("data.doctor", run_name="__main__")
