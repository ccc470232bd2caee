"""A training rank's beginning and end: tied to its launcher's life, DeepSpeed ready, and leaving with the others."""

from __future__ import annotations

import os
import socket
import threading
import time
import warnings


def end_with_launcher(interval: float = 0.5) -> threading.Thread | None:
    """End this process within about `interval` seconds of its launcher's death, so that no rank goes on alone.

    Returns:
        The watching thread; None when no launcher started this process.
    """
    if "RANK" not in os.environ:
        return None
    launcher = os.getppid()

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(interval)
        os.write(2, f"the launcher of this rank (pid {launcher}) is gone: stopping\n".encode())
        os._exit(3)

    thread = threading.Thread(target=watch, name="launcher", daemon=True)
    thread.start()
    return thread


def prepare_deepspeed() -> None:
    """Choose the CPU where there is no GPU, and keep DeepSpeed from compiling or warning of what is not used here.

    Without a launcher (`python -m qalign_core.train job.json`) this process is the only rank.
    """
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if "RANK" not in os.environ:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_SIZE": "1"}
        os.environ |= alone | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    # DeepSpeed uses names of torch.distributed that this torch calls deprecated, in every update under ZeRO-3.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    import datasets
    import deepspeed
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    # Shared-memory all-reduce for inference: a minute of C++ at the first start, never called in training.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def leave_together() -> None:
    """Wait for every rank, then close their communication: a rank that just ended could take a saving one down."""
    import torch.distributed as distributed

    if distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()
