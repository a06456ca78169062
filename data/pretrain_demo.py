"""``python -m data.pretrain_demo``, another name of ``python -m data.demo.pretrain``."""

from data.demo.pretrain import main
from tool.run import run

if __name__ == "__main__":
    run(main)
