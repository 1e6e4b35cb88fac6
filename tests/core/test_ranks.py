"""If these break, two processes train another network than one, or a dead one takes the run along."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from textwrap import indent

import pytest
import torch
import torch.distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm

import zoo
from tests.conftest import write_shapes
from tests.core.processes import ROOT, WATCHED, finish, free_port, start, steps, train
from tests.core.test_trainer import assert_same_run
from zoo.core import checkpoint
from zoo.core.loader import Order
from zoo.core.ranks import ALONE, Agreed, Ranks, joined, launch, lost, of_this_start, whole
from zoo.errors import InputError
from zoo.layers import PooledBatchNorm

SMALL = "--size 32 --epochs 2 --amp off --augment default --limit-val 3"
NETWORKS = {
    "unet": "--arch unet --opt width=2 --size 20 --loss weighted_ce --augment shift+elastic",  # dropout
    "unetpp": "--arch unetpp --ds --opt width=2 --opt norm=none --optimizer sgd --lr 0.02 "
    "--mix mixup:0.4+cutmix:1",
    "segformer": "--arch segformer_b0 --opt width=16 --freeze-bn --loss ce --ema 0.9",  # also dropped paths
    "resnet": "--arch unet_halved --encoder resnet18 --size 40 --freeze-bn --accumulate 2 --grad-checkpoint "
    "--optimizer sgd --lr 2e-4 --momentum 0",
}


def command(data: Path, out: Path, network: str, more: str = "") -> list[str]:
    """21 images to train, in batches of 5: the last holds one, which leaves a process without any."""
    return f"{SMALL} {NETWORKS[network]} --data folder:{data} --batch 5 {more} --out {out}".split()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes", 26)


# ---------------------------------------------------------------------- equality


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_two_processes_train_as_one(network: str, data: Path, tmp_path: Path) -> None:
    """The same images in every step, losses within 1e-5 through 20 steps, the same tensors in the end."""
    more = "--epochs 4"
    if network == "resnet":  # as one freezes BatchNorm: with statistics of its own data, at a small rate
        # At a large one an error of rounding grows tenfold a step, in one process as well.
        before = tmp_path / "before"
        flags = command(data, before, network, "--epochs 8 --lr 0.05 --momentum 0.9")
        train(1, [word for word in flags if word != "--freeze-bn"], tmp_path / "seen")
        more = f"--epochs 7 --weights {before / 'last.pt'}"
    for n in (1, 2):
        more += f" --workers {n - 1}"
        train(n, command(data, tmp_path / f"run{n}", network, more), tmp_path / f"seen{n}")
    (one,), two = steps(tmp_path / "seen1", 1), steps(tmp_path / "seen2", 2)
    assert len(one) >= 20
    ghosts = 0
    for a, b, c in zip(one, *two, strict=True):
        assert b["loss"] == c["loss"] == pytest.approx(a["loss"], rel=1e-5)
        assert sorted(b["names"] + c["names"]) == sorted(a["names"])
        ghosts += not c["names"]
    assert ghosts == (7 if network == "resnet" else 4)  # once an epoch
    ours, theirs = (torch.load(tmp_path / f"run{n}" / "last.pt", weights_only=True) for n in (1, 2))
    for key, tensor in ours["model"].items():
        torch.testing.assert_close(theirs["model"][key], tensor, rtol=1e-3, atol=5e-4)
    assert ours["training"]["progress"]["step"] == theirs["training"]["progress"]["step"]
    logs = [(tmp_path / f"run{n}" / "metrics.jsonl").read_text().splitlines() for n in (1, 2)]
    for a, b in zip(*logs, strict=True):
        assert json.loads(b)["val"]["dice"] == pytest.approx(json.loads(a)["val"]["dice"], abs=1e-3)


SCORING = """
from dataclasses import replace
def scored(self):
    scores = self.evaluate()
    with open(os.environ["SEEN"] + "." + rank, "w") as f:
        json.dump({"names": scores.names, "counts": scores.counts.tolist(), "all": scores.to_dict()}, f)
Trainer.fit = scored
"""


@pytest.mark.slow
def test_any_number_of_processes_counts_the_same(data: Path, tmp_path: Path) -> None:
    """Five validation images, one of them in no pair: no image twice, none left out, in the same order."""
    out = tmp_path / "run"
    train(1, [*command(data, out, "unetpp"), "--limit-val", "5", "--epochs", "1"], tmp_path / "seen")
    found = []
    for n in (1, 2, 3):
        seen = tmp_path / f"scores{n}"
        train(n, ["--resume", str(out), "--workers", str(n % 2)], seen, SCORING)
        found += [json.loads(seen.with_name(f"{seen.name}.{rank}").read_text()) for rank in range(n)]
    assert len(found[0]["names"]) == len(set(found[0]["names"])) == 5
    assert all(one == found[0] for one in found[1:])


@pytest.mark.slow
@pytest.mark.parametrize("network", ["unetpp", "segformer"])
def test_a_run_in_parts_is_the_run(network: str, data: Path, tmp_path: Path) -> None:
    """--shard: the same losses; its checkpoint goes on in one process, and one process's in parts."""
    more = "--epochs 2 --save-every 3"
    train(1, command(data, tmp_path / "one", network, more), tmp_path / "seen1")
    train(2, command(data, tmp_path / "parts", network, f"{more} --shard"), tmp_path / "seen2")
    (one,), two = steps(tmp_path / "seen1", 1), steps(tmp_path / "seen2", 2)
    for a, b, c in zip(one, *two, strict=True):
        assert b["loss"] == c["loss"] == pytest.approx(a["loss"], rel=1e-5)
    a, b = (checkpoint.read(tmp_path / run / "last.pt") for run in ("one", "parts"))
    assert {key: t.shape for key, t in a.model.items()} == {key: t.shape for key, t in b.model.items()}
    assert all(type(t) is torch.Tensor for t in b.model.values())
    moments = [s["training"] if isinstance(s, dict) else s.training for s in (a, b)]
    assert moments[0]["optimizer"]["state"].keys() == moments[1]["optimizer"]["state"].keys()

    train(1, ["--resume", str(tmp_path / "parts"), "--epochs", "3"], tmp_path / "on1")
    train(2, ["--resume", str(tmp_path / "one"), "--epochs", "3", "--shard"], tmp_path / "on2")
    (first,), second = steps(tmp_path / "on1", 1), steps(tmp_path / "on2", 2)
    assert len(first) == 5
    for x, y in zip(first, second[0], strict=True):
        assert y["loss"] == pytest.approx(x["loss"], rel=1e-4)


# ---------------------------------------------------------------------- resuming


STOP_AT = """
inner = Trainer.step
def stopping(self, group):
    loss = inner(self, group)
    if self.progress.step + 1 == {step}:
        os.kill(os.getpid(), signal.{how})
    return loss
Trainer.step = stopping
"""


@pytest.mark.slow
def test_ctrl_c_in_one_process_stops_all_and_any_number_goes_on(data: Path, tmp_path: Path) -> None:
    """The signal reaches one of them; both stop behind the same step.  Two resume bit for bit, one nearly."""
    train(2, command(data, tmp_path / "unbroken", "segformer"), tmp_path / "seen")
    code = STOP_AT.format(step=3, how="SIGINT if rank == '1' else 0")
    ended = finish(start(2, command(data, tmp_path / "broken", "segformer"), tmp_path / "before", code))
    assert [status for status, _, _ in ended] == [130, 130]
    saved = checkpoint.read(tmp_path / "broken" / "last.pt").training["progress"]
    assert (saved["epoch"], saved["step"]) == (0, 3)
    subprocess.run(["cp", "-r", tmp_path / "broken", tmp_path / "other"], check=True)
    train(2, ["--resume", str(tmp_path / "broken"), "--workers", "2"], tmp_path / "after")
    assert_same_run(tmp_path / "unbroken", tmp_path / "broken")
    train(1, ["--resume", str(tmp_path / "other")], tmp_path / "alone")
    (unbroken, _), (alone,) = steps(tmp_path / "seen", 2), steps(tmp_path / "alone", 1)
    for a, b in zip(unbroken[3:], alone, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)


@pytest.mark.slow
def test_a_dead_process_ends_the_run_with_a_word_and_a_state(data: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle of epoch two: the other does not hang, and nothing of epoch one is lost."""
    code = STOP_AT.format(step=7, how="SIGKILL if rank == '1' else 0")
    runs = start(2, command(data, tmp_path / "run", "unetpp", "--save-every 2"), tmp_path / "seen", code)
    began = time.monotonic()
    (status, _, err), (other, _, _) = finish(runs)
    assert (status, other) == (2, -signal.SIGKILL)
    assert re.search(r"^train\.py: process 0 of 2 lost the others at step 8 \(.*go on with --res", err, re.M)
    assert "Traceback" not in err
    assert time.monotonic() - began < 120
    assert checkpoint.read(tmp_path / "run" / "last.pt").training["progress"]["step"] == 6
    train(2, ["--resume", str(tmp_path / "run")], tmp_path / "on")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]


@pytest.mark.slow
def test_torchrun_restarts_from_the_last_save(data: Path, tmp_path: Path) -> None:
    """A process that dies is started again, and finds the run that it was in without being told."""
    train(2, command(data, tmp_path / "unbroken", "unetpp", "--save-every 2"), tmp_path / "seen")
    dies = STOP_AT.format(step=5, how="SIGKILL if rank == '1' else 0")
    once = 'if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":\n' + indent(dies, "    ")
    script = tmp_path / "watched.py"
    script.write_text(WATCHED % once)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "3"]
    torchrun += ["--rdzv-endpoint", "127.0.0.1:0", "--rdzv-backend", "c10d", str(script)]
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "SEEN": str(tmp_path / "torchrun")}
    ran = subprocess.run(
        [*torchrun, *command(data, tmp_path / "broken", "unetpp", "--save-every 2")],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    assert re.search("after epoch 0, step [45]", ran.stdout)
    assert_same_run(tmp_path / "unbroken", tmp_path / "broken")


# ---------------------------------------------------------------------- what goes wrong


@pytest.mark.slow
def test_what_is_wrong_in_one_process_is_said_once_and_stops_all(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "shapes", 12)
    code = """
if rank == "1":
    from zoo.core.loader import TrainSet
    from zoo.errors import InputError
    def broken(self, epoch, index):
        raise InputError(f"images/{index:02d}.png: cannot be read")
    TrainSet.load = broken
"""
    ended = finish(start(2, command(data, tmp_path / "run", "unetpp"), tmp_path / "seen", code))
    assert [status for status, _, _ in ended] == [2, 2]
    says = r"train\.py: images/\d\d\.png: cannot be read; then go on with --resume .*\n"
    assert re.fullmatch(says, ended[0][2])
    assert ended[1][2] == ""


@pytest.mark.slow
def test_wrong_flags_are_said_once(data: Path, tmp_path: Path) -> None:
    for flags, says in (
        ("--batch 1 --mix none", "--batch 1: fewer images than processes, which are 2"),
        ("--batch 2", "--batch 2: fewer pairs than processes, which are 2"),
        ("--data folder:/nowhere", "no such folder"),
    ):
        argv = [*command(data, tmp_path / "run", "unetpp"), *flags.split()]
        ended = finish(start(2, argv, tmp_path / "seen"))
        assert [status for status, _, _ in ended] == [2, 2], ended
        assert says in ended[0][2]
        assert "Traceback" not in ended[0][2]
        assert ended[1][2] == ""


TAKEN = """
if rank == "0":
    from pathlib import Path
    from zoo.core import checkpoint
    from zoo.errors import InputError
    {what}
"""
FAULTS = {
    "the lock is taken": (
        "def broken(self): raise InputError('{out}: process 7 trains in it')\n"
        "    import zoo.core.run; zoo.core.run.Lock.__enter__ = broken",
        "process 7 trains in it",
    ),
    "the disk is full at the end of an epoch": (
        "import zoo.core.trainer as t\n"
        "    def broken(path, line): raise InputError(f'{path}: cannot write (No space left on device)')\n"
        "    t.log = broken",
        "metrics.jsonl: cannot write (No space left on device)",
    ),
    "the disk is full in saving": (
        "def broken(path, state): raise InputError(f'{path}: cannot save (No space left on device)')\n"
        "    checkpoint.write = broken",
        "last.pt: cannot save (No space left on device)",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_what_only_the_first_process_can_meet_ends_the_others_too(
    fault: str, data: Path, tmp_path: Path
) -> None:
    """It alone writes: the others must not wait for it, nor say that they lost it."""
    code, says = FAULTS[fault]
    code = TAKEN.replace("{what}", code)
    runs = start(2, command(data, tmp_path / "run", "unetpp"), tmp_path / "seen", code)
    (status, _, err), (other, _, silent) = finish(runs)
    assert (status, other, silent) == (2, 2, "")
    assert says in err
    assert len(err.splitlines()) == 1


def test_processes_started_again_do_not_meet_the_dead() -> None:
    """torchrun's store still holds where those of the last attempt listened."""
    store = dist.HashStore()
    names = []
    for _ in range(3):
        with ThreadPoolExecutor() as pool:
            # the first one late, the others late: either meets the words of the dead first
            for early in ([0], [1, 2]):
                started = {r: pool.submit(of_this_start, store, r, 3) for r in early}
                time.sleep(0.1)
                started |= {r: pool.submit(of_this_start, store, r, 3) for r in {0, 1, 2} - {*early}}
                ours = [started[r].result(timeout=20) for r in range(3)]
                ours[0].set("address", str(len(names)))
                names.append([s.get("address") for s in ours])
    assert names == [[str(i).encode()] * 3 for i in range(6)]
    with pytest.raises(RuntimeError, match=r"^timed out after 0:00:00\.1"):
        of_this_start(store, 1, 2, timedelta(seconds=0.1))


def test_a_launch_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two torchruns without --rdzv-id are both called none."""
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert launch() is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job-5")
    assert launch() == "job-5"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert launch() == f"none {socket.gethostname()} {os.getppid()}"


def test_shard_needs_others(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from train import main

    assert main([*command(shapes, tmp_path / "run", "unetpp"), "--shard"]) == 2
    assert "--shard: one process has nothing to share" in capsys.readouterr().err


# ---------------------------------------------------------------------- by itself


def test_alone_everything_is_as_it_is() -> None:
    x = torch.ones(2)
    assert ALONE.sum(x) is x
    assert (ALONE.first(3), ALONE.gather(3), ALONE.chief, ALONE.size) == (3, [3], True, 1)
    assert ALONE.together(lambda: 4) == 4
    with joined() as ranks:
        assert ranks is ALONE
    with pytest.raises(InputError, match=r"^no$") as e:
        ALONE.together(lambda: (_ for _ in ()).throw(InputError("no")))
    assert not isinstance(e.value, Agreed)
    assert whole({"a": [x, (1, "b")]})["a"][0] is x


@pytest.mark.parametrize("size", [2, 3, 4])
def test_processes_share_every_batch_and_nothing_twice(size: int) -> None:
    whole_epoch = list(Order(11, 4, seed=1))
    parts = [list(Order(11, 4, seed=1, ranks=Ranks(rank, size))) for rank in range(size)]
    assert {len(part) for part in parts} == {len(whole_epoch)}
    for batch, *shares in zip(whole_epoch, *parts, strict=True):
        assert sorted(key for share in shares for key in share) == sorted(batch)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_synchronised_batch_norm_has_the_same_checkpoints() -> None:
    """Keys, classes that --freeze-bn finds, and what the network computes once it is trained.

    That a pooled BatchNorm's rule for a single value goes is right: of two processes there are two values.
    """
    model = zoo.build("pspnet", 2, encoder="resnet18", bins=(1, 2)).eval()
    assert any(isinstance(m, PooledBatchNorm) for m in model.modules())
    x = torch.randn(1, 3, 33, 47)
    want, keys = model(x), model.state_dict().keys()
    norms = [name for name, m in model.named_modules() if isinstance(m, _BatchNorm)]
    converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert converted.state_dict().keys() == keys
    assert [name for name, m in converted.named_modules() if isinstance(m, _BatchNorm)] == norms
    assert not any(isinstance(m, PooledBatchNorm) for m in converted.modules())
    assert torch.equal(converted(x), want)


def test_what_torch_says_of_a_lost_process() -> None:
    for words in ("Connection closed by peer [127.0.0.1]:1", "[gloo] Timed out waiting 9ms", "NCCL error"):
        assert lost(RuntimeError(words))
    assert lost(dist.DistStoreError("wait timeout"))
    for words in ("mat1 and mat2 shapes cannot be multiplied", "cannot store a peer of it in half"):
        assert not lost(RuntimeError(words))


def test_others_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.core.ranks.PATIENCE", timedelta(seconds=1))
    port = str(free_port())
    words = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1"}
    for word, value in {**words, "MASTER_PORT": port}.items():
        monkeypatch.setenv(word, value)
    with pytest.raises(InputError, match=rf"process 1 of 2 cannot reach the others at 127.0.0.1:{port}: .+$"):
        joined().__enter__()
