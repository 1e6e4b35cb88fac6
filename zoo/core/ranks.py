"""Several processes as one run: who we are, what all of us know together, and one network among us.

torchrun starts the processes and tells each its number; without it there is one.  Gradients are summed over
the processes, as the losses' denominators are: a step of N processes is the step of one with their batch.
"""

import atexit
import inspect
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, NoReturn, TypeVar, cast
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from zoo.core.memory import blocks_of
from zoo.core.stop import Interrupted
from zoo.errors import InputError
from zoo.layers import Output

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule

PATIENCE = timedelta(minutes=20)  # how long one process waits for another: they may open data at other speeds
T = TypeVar("T")
# torch 2.14 has another word for it than 2.6.
WORDS = inspect.signature(DistributedDataParallel.__init__).parameters
SYNC_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in WORDS else "broadcast_buffers"


@dataclass(frozen=True)
class Ranks:
    """rank: our number among `size` processes.  local: our number on this machine, which picks the GPU."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def chief(self) -> bool:
        """Whether we are the one process that writes and speaks."""
        return self.rank == 0

    def sum(self, x: Tensor) -> Tensor:
        """`x`, of the same shape in all processes, summed over them."""
        if self.size > 1:
            x = x.clone()
            dist.all_reduce(x)
        return x

    def first(self, value: T) -> T:
        """The chief's `value`, in all processes."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, 0)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """Every process's `value`, in order of their numbers, in all processes."""
        if self.size == 1:
            return [value]
        box: list[T | None] = [None] * self.size
        dist.all_gather_object(box, value)
        return cast(list[T], box)

    def together(self, work: Callable[[], T]) -> T:
        """What `work` gives here, if it went well everywhere.  Raises Agreed in all processes if not."""
        problem, result = "", None
        try:
            result = work()
        except Agreed:  # within it all have spoken already
            raise
        except InputError as e:
            if self.size == 1:
                raise
            problem = str(e)
        if said := [words for words in self.gather(problem) if words]:
            raise Agreed(said[0])
        return cast(T, result)

    def alone(self, work: Callable[[], None]) -> None:
        """`work` by the chief.  Raises Agreed in all processes where it cannot be done."""
        self.together(work if self.chief else lambda: None)

    def in_turn(self, work: Callable[[], T]) -> T:
        """The same where `work` may fetch files: one process of each machine goes before its others."""
        if self.size == 1:
            return self.together(work)
        early = self.together(lambda: work() if self.local == 0 else None)
        late = self.together(lambda: work() if self.local else None)
        return cast(T, late if self.local else early)


class Agreed(InputError):
    """Raised in all processes at once, so that one of them can say it."""


ALONE = Ranks()


@contextmanager
def joined(device: torch.device | None = None) -> Iterator[Ranks]:
    """Join the processes that torchrun started; `ALONE` where it did not.

    device: cpu makes them talk by gloo, cuda by nccl; None for whichever there is.
    Raises InputError where the other processes cannot be reached.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield ALONE
        return
    ranks = Ranks(*(int(os.environ[word]) for word in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    cuda = torch.cuda.is_available() if device is None else device.type == "cuda"
    if cuda:
        torch.cuda.set_device(ranks.local if device is None or device.index is None else device.index)
    try:
        store = of_this_start(next(dist.rendezvous("env://", timeout=PATIENCE))[0], ranks.rank, ranks.size)
        dist.init_process_group(
            "nccl" if cuda else "gloo", timeout=PATIENCE, store=store, rank=ranks.rank, world_size=ranks.size
        )
    except (RuntimeError, ValueError) as e:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        what = f"process {ranks.rank} of {ranks.size} cannot reach the others at {where}"
        raise InputError(f"{what}: {str(e).splitlines()[0]}") from e
    here = False  # all of us, so that nobody waits in vain
    try:
        yield ranks
        here = True
    except (Agreed, Interrupted):
        here = True
        raise
    finally:
        if here:
            with suppress(RuntimeError):
                dist.barrier()  # gloo's threads may abort a process whose peer leaves first
        dist.destroy_process_group()


def of_this_start(store: dist.Store, rank: int, size: int, patience: timedelta = PATIENCE) -> dist.Store:
    """`store` under a name on which the processes agree that are there now.

    torchrun's store outlives the processes that it starts again, which then find the addresses of the dead in
    it and wait for them (pytorch/pytorch#135712); its count of restarts differs from machine to machine.
    Each of the others says a word that was never said before, the first answers all of them with its own.
    Raises RuntimeError where one does not come.
    """
    word, end = uuid4().hex, time.monotonic() + patience.total_seconds()

    def wait(done: Callable[[], bool]) -> None:
        while not done():
            if time.monotonic() > end:
                raise RuntimeError(f"timed out after {patience}")
            time.sleep(0.02)

    def said(key: str) -> str:
        return store.get(key).decode() if store.check([key]) else ""

    if rank == 0:

        def answered(other: int) -> bool:
            if said(f"heard/{other}") != word:  # its call may be that of a dead one: answer until it heard
                store.set(f"answer/{other}", f"{said(f'call/{other}')} {word}")
                return False
            return True

        for other in range(1, size):
            wait(partial(answered, other))
    else:
        store.set(f"call/{rank}", word)
        wait(lambda: said(f"answer/{rank}").startswith(word))
        word = said(f"answer/{rank}").split()[1]
        store.set(f"heard/{rank}", word)
    return dist.PrefixStore(word, store)


def lost(e: RuntimeError) -> bool:
    """Whether torch says that another process is gone."""
    words = ("connection closed by peer", "connection reset by peer", "broken pipe", "gloo", "nccl")
    return isinstance(e, dist.DistError) or any(word in str(e).lower() for word in words)


def restarted(ranks: Ranks) -> bool:
    """Whether torchrun has started some of us again."""
    return any(ranks.gather(int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0))


def launch() -> str | None:
    """What names the torchrun that started us, the same after it has started us again; None without one."""
    given = os.environ.get("TORCHELASTIC_RUN_ID")  # "none" where --rdzv-id was not given
    return f"{given} {socket.gethostname()} {os.getppid()}" if given == "none" else given


def leave(status: int) -> NoReturn:
    """End this process with `status`; one of several without the interpreter's own end.

    During that end torch's threads may still want the interpreter, which aborts the process after all is
    said and done ("terminate called without an active exception").
    """
    if "RANK" in os.environ:
        atexit._run_exitfuncs()  # ends the workers that load data
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


# ---------------------------------------------------------------------- the network


class Parallel:
    """`model` as all processes train it: copies whose gradients are summed, or (shard) one in parts.

    Calls go to it as to the model.  It is changed in place: SyncBatchNorm on GPUs (sync_bn), where it is
    sharded its parameters become parts.  Its state dict keeps its keys.
    """

    def __init__(
        self, model: nn.Module, ranks: Ranks, device: torch.device, shard: bool = False, sync_bn: bool = True
    ):
        self.model, self.ranks = model, ranks
        self.unsynced = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
        if ranks.size > 1 and sync_bn and device.type == "cuda" and self.unsynced:
            self.model, self.unsynced = nn.SyncBatchNorm.convert_sync_batchnorm(model), False
        self.shard = shard
        self.run: nn.Module
        if shard:
            self.run = split(self.model, device)
        elif ranks.size > 1:
            for p in self.model.parameters():  # the strides that autograd gives to gradients of 1×1 kernels
                if p.ndim == 4 and p.shape[2:] == (1, 1):
                    p.data = p.data.flatten().view(p.shape)
            self.run = DistributedDataParallel(
                self.model,
                device_ids=[device.index or 0] if device.type == "cuda" else None,
                gradient_as_bucket_view=True,
                # then the chief's running statistics are everybody's
                **{SYNC_BUFFERS: self.unsynced},  # type: ignore[arg-type]
            )
        else:
            self.run = self.model

    def __call__(self, x: Tensor) -> Output:
        """What the network gives in train mode."""
        return cast(Output, self.run(x))

    def summed(self, loss: Tensor) -> Tensor:
        """`loss` such that the gradients of all processes add up: they are averaged."""
        return loss * self.ranks.size

    @contextmanager
    def step(self, last: bool) -> Iterator[None]:
        """Around a forward and backward pass: processes exchange gradients in the `last` of a step alone."""
        if self.shard:
            cast("FSDPModule", self.run).set_requires_gradient_sync(last)
            yield
        else:
            free = isinstance(self.run, DistributedDataParallel) and not last
            with cast(DistributedDataParallel, self.run).no_sync() if free else nullcontext():
                yield

    @contextmanager
    def apart(self) -> Iterator[nn.Module]:
        """While it is entered each process can use the model by itself, as often as it likes."""
        self.settle()
        parts = [cast("FSDPModule", m) for m in self.model.modules() if self.shard and hasattr(m, "unshard")]
        for part in parts:
            part.set_reshard_after_forward(False)
            part.unshard()
        try:
            yield self.model
        finally:
            for part in parts:
                part.set_reshard_after_forward(True)
                part.reshard()

    def settle(self) -> None:
        """Before the model is used or saved outside of training: the chief's running statistics for all."""
        if self.ranks.size > 1 and self.unsynced:
            for buffer in list(self.model.buffers()):
                dist.broadcast(buffer, 0)


def split(model: nn.Module, device: torch.device) -> nn.Module:
    """`model` in parts over all processes (FSDP2): each keeps 1/N of every weight, gradient and moment.

    Raises InputError where there is one process only.
    """
    if not dist.is_initialized():
        raise InputError("--shard: one process has nothing to share; start several with torchrun")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model.to(memory_format=torch.contiguous_format)  # FSDP2 takes no other
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for block in blocks_of(model):  # weights of one block at a time are whole
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)  # in place
    return model


def whole(value: object) -> object:
    """`value` with every tensor that is in parts put together; all processes must call it."""
    if isinstance(value, Tensor):
        return value.full_tensor() if hasattr(value, "full_tensor") else value
    if isinstance(value, dict):
        return {key: whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(whole(item) for item in value)
    return value


def parted(value: Tensor, like: Tensor) -> Tensor:
    """The inverse: a whole tensor as `like`, which may be in parts."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value, like.device_mesh, like.placements)
