"""The process that has imported everything and forks a child for each life; what it is asked and answers are lines of JSON.

{"words", "folder", "name", "environment", "strikes"} -> {"pid"}     {"wait": pid} -> {"code"}     {"stopped": pid} -> {"stopped"}
"""

from __future__ import annotations

import copy
import json
import os
import signal
import sys
import traceback
from typing import Any

from crash.strike import Field, Strike

PATIENCE = 300  # seconds after which a life counts as hung, and ends by SIGALRM


def live(request: dict[str, Any]) -> int:
    """What the child does with its life; the exit code."""
    from lgdlm.cli.__main__ import main

    signal.alarm(PATIENCE)
    os.chdir(request["folder"])
    os.environ.update(request["environment"])
    opened = [os.open(request["name"] + kind, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644) for kind in ("out", "err", "tally")]
    for number, handle in enumerate((os.open(os.devnull, os.O_RDONLY), *opened[:2])):
        os.dup2(handle, number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background starts without
    field = Field([Strike(**strike) for strike in request["strikes"]])
    field.install()
    code = main(request["words"])
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(opened[2], json.dumps(field.tally).encode())
    return code


def born(request: dict[str, Any]) -> int:
    """Fork; the child's number."""
    if (child := os.fork()) == 0:
        code = 1
        try:
            code = live(request)
        except BaseException:  # whatever it is: this is not the server, and must not go on as it
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)
    return child


def remember_configurations() -> None:
    """Composing one takes as long as a short run, and lives share theirs."""
    import hydra

    from lgdlm.cli.compose import shipped_configs

    compose, held = hydra.compose, dict[tuple[str, ...], Any]()

    def remembered(config_name: str, overrides: list[str]) -> Any:
        if config_name not in shipped_configs():
            return compose(config_name, overrides=overrides)
        key = (config_name, *overrides)
        if key not in held:
            held[key] = compose(config_name, overrides=overrides)
        return copy.deepcopy(held[key])

    hydra.compose = remembered


def serve() -> None:
    """Answer until nobody asks. Words are composed here when they first come, so that every child with the same ones inherits that."""
    import torch

    import lgdlm.cli.train  # noqa: F401
    from lgdlm.cli.commands import parse
    from lgdlm.cli.compose import compose

    torch.optim.AdamW([torch.zeros(1)])  # loads the compiler once, for all
    remember_configurations()
    running = set[int]()
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any]
        if "words" in request:
            asked = parse(request["words"])
            compose(asked.words, asked.config_name)
            answer = {"pid": born(request)}
            running.add(answer["pid"])
        elif "stopped" in request:
            found = os.waitid(os.P_PID, request["stopped"], os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            answer = {"stopped": found is not None and found.si_code == os.CLD_STOPPED}
        else:
            answer = {"code": os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])}
            running.discard(request["wait"])
        print(json.dumps(answer), flush=True)
    for left in running:
        os.kill(left, signal.SIGKILL)


if __name__ == "__main__":
    serve()
