"""``python -m tool.report``: what a session made, see log/report."""

import runpy

if __name__ == "__main__":
    runpy.run_module("log.report", run_name="__main__", alter_sys=True)
