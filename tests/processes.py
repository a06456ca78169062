"""Step scripts in processes of their own, for tests that need several or kill them.

Processes come from a server that has imported everything already, so that one starts in a moment.
"""

import importlib
import multiprocessing
import os
import signal
import socket
from contextlib import nullcontext
from pathlib import Path

from tests.pretend_gpu import pretend_gpus

STEPS = ("train_resnet50_SIPE", "make_cam", "eval_cam", "cam2ir", "train_irn", "make_seg_labels")
STEPS += ("train_seg", "infer_seg", "eval_seg_labels")
GPUS = "PRETENDED_GPUS"  # the variable that says how many a process has
METHOD = "START_METHOD"  # the variable that says how it starts processes of its own
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([*STEPS, __name__])


def run(
    program: str, flags: list[str], output: str, environment: dict[str, str], folder: str
) -> None:
    """Do in a fresh process what ``python program.py flags`` does in a folder.

    It takes signals as one that is started from a terminal, also where the tests run behind nohup.
    """
    import torch

    from tool.run import run as run_program

    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(environment)
    os.chdir(folder)
    multiprocessing.set_start_method(environment.get(METHOD, "fork"), force=True)
    torch.set_num_threads(1)
    main = importlib.import_module(program).main
    gpus = int(os.environ.get(GPUS, 0))
    with pretend_gpus(gpus) if gpus else nullcontext():
        run_program(lambda: main(flags))


def start(program: str, flags: list[str], output: Path, environment=None, folder: Path = Path()):
    """Return a process that runs a program; what it prints is appended to ``output``."""
    arguments = (program, flags, str(output), environment or {}, str(folder))
    process = CONTEXT.Process(target=run, args=arguments)
    process.start()
    return process


def environments(number: int) -> list[dict[str, str]]:
    """Return what torchrun sets for each of so many processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(number)}
    common["LOCAL_WORLD_SIZE"] = str(number)
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(number)]


def together(
    program: str,
    flags: list[str],
    number: int,
    output: Path,
    gpus: int = 0,
    folder: Path = Path(),
) -> None:
    """Run a program in several processes, with the environment that torchrun makes.

    They have so many GPUs that are pretended.

    Raises:
        AssertionError: one of them failed; with all that they printed.
    """
    processes = [
        start(program, flags, output, {**environment, GPUS: str(gpus)}, folder)
        for environment in environments(number)
    ]
    for process in processes:
        process.join(120)
        if process.is_alive():
            process.kill()
    codes = [process.exitcode for process in processes]
    assert codes == [0] * number, f"{codes}\n{output.read_text()}"
