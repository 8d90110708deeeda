# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Several processes: starting them through accelerate, and noticing that what was asked for is not what runs.

accelerate and torch say nothing where a launch becomes another one: FSDP without an accelerator becomes data-parallel,
`--cpu --num_processes 2` becomes one process. Here each of them is an error; see docs/scaling.md.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from ..errors import RESUME_STATUS, SailvitError

CONFIGS = Path(__file__).parents[1] / "accelerate_configs"
LAYOUTS = ("ddp", "fsdp2", "zero2", "zero3")
MODULE = "sailvit_hf.cli"
PORT = 29500  # of the first machine, as torchrun and accelerate have it
GRACE_SECONDS = 600  # between the signal that ends a run and the kill: a checkpoint must fit in
_SHARDED = {"FSDP": "ACCELERATE_USE_FSDP", "DEEPSPEED": "ACCELERATE_USE_DEEPSPEED"}
_INSTEAD = "take ddp, or run it where there is a GPU"
_DIVIDED = LAYOUTS[1:]
# What the layouts that divide a model cannot do, and why.
REFUSALS: dict[str, tuple[tuple[str, ...], str]] = {
    "vision_tower_ema": (_DIVIDED, "needs the vision tower in one piece, without FSDP or DeepSpeed"),
    "vision_feature_cache": (_DIVIDED, "needs the vision tower in one piece, without FSDP or DeepSpeed"),
    "load_in_4bit": (_DIVIDED, "keeps the weights in one piece, without FSDP or DeepSpeed"),
    "clip_per_module": (("zero2", "zero3"), "needs gradients that DeepSpeed keeps to itself"),
}


@dataclass(frozen=True)
class Launch:
    """What `sailvit refine --launch` was asked for: a layout's name or a file of accelerate, and how many of what."""

    layout: str
    processes: int | None = None
    machines: int = 1
    machine_rank: int = 0
    main_address: str | None = None
    max_restarts: int = 0


def config_file(layout: str) -> Path:
    """The accelerate config of a layout's name, or of a file.

    Raises:
        SailvitError: there is none.
    """
    path = CONFIGS / f"{layout}.yaml" if layout in LAYOUTS else Path(layout)
    if not path.is_file():
        raise SailvitError(f"There is no launch {layout}: choose out of {', '.join(LAYOUTS)}, or name a YAML file")
    return path


def refusal(layout: str, options: Iterable[str]) -> str | None:
    """Why a layout of `LAYOUTS` refuses a stage that uses these options, in a sentence, or None if it does not.

    Args:
        layout: another name, such as that of no layout, refuses nothing.
        options: of `REFUSALS`; others are passed over.
    """
    for option in options:
        layouts, why = REFUSALS.get(option, ((), ""))
        if layout in layouts:
            instead = next(name for name in LAYOUTS if name not in layouts)
            return f"{option} {why}: remove it, or take {instead}"
    return None


def refuse(trainer: Any, option: str) -> None:
    """Refuse an option of `REFUSALS` where a trainer's layout cannot have it.

    Raises:
        SailvitError: see `refusal`.
    """
    layout = "fsdp2" if trainer.is_fsdp_enabled else "zero3" if trainer.is_deepspeed_enabled else ""
    why = refusal(layout, [option])
    if why is not None:
        raise SailvitError(why)


def accelerators() -> int:
    """How many accelerators of this machine this process sees."""
    import torch

    return torch.accelerator.device_count() if torch.accelerator.is_available() else 0


def _is_set(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("true", "1")


def _check_kind(kind: str, where: str) -> None:
    """Whether this machine can run a sharded layout at all."""
    if kind not in _SHARDED:
        return
    if not accelerators():
        raise SailvitError(
            f"{where} needs a GPU, and torch sees none here: accelerate would train without sharding; {_INSTEAD}"
        )
    if kind == "DEEPSPEED" and find_spec("deepspeed") is None:
        raise SailvitError(f"{where} needs the package deepspeed: pip install deepspeed, or take fsdp2")


# --- what this process was started as --------------------------------------------------------------------------------


def check_environment() -> None:
    """Refuse a launch that would silently become another one; before anything is read or written.

    Raises:
        SailvitError: what was asked for is not what would run.
    """
    for kind, name in _SHARDED.items():
        if _is_set(name):
            _check_kind(kind, f"the launch ({name}=true)")
    if "WORLD_SIZE" in os.environ:
        return
    if "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ:
        raise SailvitError(
            "accelerate was asked for several processes and started one (as with --cpu, or without a GPU): use "
            "sailvit refine --launch ddp --processes N, or accelerate launch --config_file ddp.yaml (docs/scaling.md)"
        )
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        raise SailvitError(
            "srun started several tasks that know nothing of each other, and each would do the whole run: use one "
            "task a machine with --launch (see examples/slurm)"
        )


def wants_fsdp(args: Any) -> bool:
    """Whether parameters are to be sharded by FSDP."""
    return bool(args.fsdp) or _is_set("ACCELERATE_USE_FSDP")


def check_layout(args: Any, accelerator: Any) -> None:
    """Compare what was asked for with what accelerate made of it.

    Args:
        args: the training arguments.
        accelerator: the Trainer's `Accelerator`.

    Raises:
        SailvitError: they differ, or a whole checkpoint could not be saved.
    """
    kind, processes = accelerator.distributed_type.value, accelerator.num_processes
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world != processes:
        raise SailvitError(
            f"{world} processes were started (WORLD_SIZE) but {processes} train together, each for itself: without a "
            "GPU set use_cpu=True, and start them by torchrun, accelerate launch or sailvit refine --launch"
        )
    if args.n_gpu > 1:
        raise SailvitError(
            f"one process sees {args.n_gpu} GPUs, and the Trainer would split each batch by rows, tearing pictures "
            "from their texts: use --launch ddp, or CUDA_VISIBLE_DEVICES=0 for one GPU"
        )
    asked = {"FSDP": wants_fsdp(args)}
    asked["DEEPSPEED"] = args.deepspeed or _is_set("ACCELERATE_USE_DEEPSPEED")
    for name, wanted in asked.items():
        if wanted and kind != name:
            raise SailvitError(f"{name} was asked for, but on {args.device.type} accelerate runs {kind}: {_INSTEAD}")
    if kind == "FSDP":
        _check_fsdp(accelerator.state.fsdp_plugin)
    elif kind == "DEEPSPEED":
        _check_deepspeed(args, accelerator.state.deepspeed_plugin)


def _check_fsdp(plugin: Any) -> None:
    if plugin is None:
        raise SailvitError("accelerate lost its FSDP settings between two stages: run one stage a process")
    if plugin.fsdp_version != 2:
        raise SailvitError(
            "fsdp_version 1 makes one flat parameter of many, and with it one learning rate: set fsdp_version to 2"
        )
    if "FULL_STATE_DICT" not in str(plugin.state_dict_type):
        raise SailvitError(
            f"fsdp_state_dict_type {str(plugin.state_dict_type).split('.')[-1]} saves no whole model: set it to "
            "FULL_STATE_DICT"
        )


def _check_deepspeed(args: Any, plugin: Any) -> None:
    if args.clip_per_module:
        raise SailvitError(str(refusal("zero3", ["clip_per_module"])))
    if plugin.zero_stage == 3 and plugin.zero3_init_flag:
        raise SailvitError(
            "zero3_init_flag hides the parameters' shapes, by which weight decay is shared out: set it to false"
        )
    if plugin.zero_stage == 3 and not plugin.zero3_save_16bit_model:
        raise SailvitError("zero3_save_16bit_model false saves no whole model: set it to true")


def forget_layout() -> None:
    """Let the next Trainer of this process choose its precision, and be sharded as the one before.

    accelerate keeps the first one's precision; and of a sharded one it would keep the name, but not the settings.
    """
    from accelerate.state import AcceleratorState, DistributedType, PartialState

    AcceleratorState._reset_state(reset_partial_state=False)
    state = PartialState._shared_state
    if state.get("distributed_type") == DistributedType.FSDP:
        device = state["device"].type
        state["distributed_type"] = DistributedType(f"MULTI_{ {'cuda': 'GPU'}.get(device, device.upper()) }")


def run_alone(command: list[str]) -> None:
    """In a launched process: run `sailvit` in a process that knows nothing of the launch; else do nothing.

    Raises:
        SailvitError: it failed; it told why itself.
    """
    if "WORLD_SIZE" not in os.environ:
        return
    prefixes = ("ACCELERATE_", "FSDP_", "GROUP_", "LOCAL_", "MASTER_", "ROLE_", "TORCHELASTIC_", "RANK", "WORLD_SIZE")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
    done = subprocess.run([sys.executable, "-m", MODULE, *command], env=environment, stdout=subprocess.DEVNULL)
    if done.returncode:
        raise SailvitError(f"sailvit {command[0]} ended with status {done.returncode}, see above")


# --- starting them ---------------------------------------------------------------------------------------------------


def layout_kind(layout: str) -> tuple[Path, str]:
    """The config of a layout's name, or a file, and what kind of launch accelerate makes of it.

    Raises:
        SailvitError: there is none, it is no config, or it starts one process.
    """
    path = config_file(layout)
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        kind = str(config["distributed_type"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise SailvitError(f"{path} is no config of accelerate: it has no distributed_type") from error
    if not (kind.startswith("MULTI_") or kind in _SHARDED) or kind == "MULTI_CPU" or config.get("use_cpu"):
        raise SailvitError(f"accelerate starts one process for {path} ({kind}, or use_cpu): take --launch ddp")
    return path, kind


def _checked(launch: Launch) -> tuple[Path, str, int]:
    """The config, what kind of launch it is, and the number of processes of all machines."""
    if "LOCAL_RANK" in os.environ:
        raise SailvitError("this process was started by a launcher already: remove --launch")
    path, kind = layout_kind(launch.layout)
    _check_kind(kind, f"--launch {launch.layout}")
    if not 0 <= launch.machine_rank < launch.machines:
        raise SailvitError(f"--machine-rank {launch.machine_rank}: {launch.machines} machines count from 0")
    if launch.machines > 1 and launch.main_address is None:
        raise SailvitError("--machines needs --main-address, the name or address of machine 0, on each of them")
    if launch.machines == 1 and int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        raise SailvitError("srun started several launches of one machine: give --machines (see examples/slurm)")
    found = accelerators()
    processes = launch.processes or found * launch.machines
    if processes < 1:
        raise SailvitError("there is no GPU to count: say how many processes, as in --processes 2")
    if processes % launch.machines:
        raise SailvitError(f"{processes} processes are not as many on each of {launch.machines} machines")
    if found and processes // launch.machines > found:
        raise SailvitError(f"{processes // launch.machines} processes a machine, but torch sees {found} GPUs here")
    return path, kind, processes


def launch(asked: Launch, command: list[str]) -> int:
    """Start `sailvit` in several processes through accelerate, and wait for their end.

    SIGTERM and SIGUSR1 (SLURM's warning) are handed on; the processes then have `TORCH_ELASTIC_SHUTDOWN_TIMEOUT`
    seconds, `GRACE_SECONDS` by default, to save a checkpoint.

    Args:
        asked: the layout and the numbers.
        command: the arguments of `sailvit` in each process.

    Returns:
        0; the status of the process that failed first (128 and the signal if one killed it); `RESUME_STATUS` after
        SIGTERM or SIGUSR1.

    Raises:
        SailvitError: a launch that would not be what was asked for.
    """
    path, kind, processes = _checked(asked)
    from accelerate.commands.launch import launch_command, launch_command_parser

    # Port 0 is any free one; several machines must agree on one.
    host, _, port = (asked.main_address or "").partition(":")
    options = {
        "config_file": path,
        "num_processes": processes,
        "num_machines": asked.machines,
        "machine_rank": asked.machine_rank,
        "main_process_port": (port or PORT) if asked.machines > 1 else 0,
        "max_restarts": asked.max_restarts,
    }
    if host:
        options["main_process_ip"] = host
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    args = launch_command_parser().parse_args([*flags, "-m", MODULE, *command])
    if asked.machines > 1:
        # Only this rendezvous tells the other machines to start again with one whose processes failed.
        args.rdzv_backend, args.same_network = "c10d", False
        args.rdzv_conf = f"is_host={int(asked.machine_rank == 0)}"
        if asked.machine_rank == 0:
            args.local_addr = host
    if asked.max_restarts:
        # Else those that are started again may find, in the launcher's own store, the addresses of those before them.
        os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
        args.standalone = asked.machines == 1  # of the static rendezvous the store is the same in every attempt
    # torchrun's own, which accelerate has no option for but hands on.
    args.signals_to_handle = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(GRACE_SECONDS))
    return _status_of(launch_command, args)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _status_of(start: Any, args: Any) -> int:
    """The exit status that torchrun would have turned into 1."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        start(args)
    except ChildFailedError as error:
        process, failure = error.get_first_failure()
        if failure.exitcode > 0:
            return failure.exitcode  # it told why itself
        why = " (often memory)" if failure.exitcode == -signal.SIGKILL else ""
        print(
            f"process {process} was killed by {_signal_name(-failure.exitcode)}{why}: --resume goes on from the last "
            "complete checkpoint",
            file=sys.stderr,
        )
        return 128 - failure.exitcode
    except SignalException as stop:
        asked_back = stop.sigval in (signal.SIGTERM, signal.SIGUSR1)
        return RESUME_STATUS if asked_back else 128 + stop.sigval
    except ConnectionError as error:
        raise SailvitError(f"{' '.join(str(error).split())}") from error
    return 0
