"""The environments that launchers leave, and the world that they describe."""

from __future__ import annotations

from pathlib import Path

import pytest

from stable_audio.data import world as world_module
from stable_audio.data.world import World, WorldError, launched_world, refuse_other


def _torchrun(nodes: int, here: int, node: int, local: int) -> dict[str, str]:
    return {
        "RANK": str(node * here + local),
        "WORLD_SIZE": str(nodes * here),
        "LOCAL_RANK": str(local),
        "LOCAL_WORLD_SIZE": str(here),
        "GROUP_RANK": str(node),
        "GROUP_WORLD_SIZE": str(nodes),
        "MASTER_ADDR": "first",
        "MASTER_PORT": "29500",
        "TORCHELASTIC_RUN_ID": "none",
    }


def _slurm(nodes: int, here: int, node: int, local: int) -> dict[str, str]:
    return {
        "SLURM_JOB_ID": "4712345",
        "SLURM_JOB_NAME": "train.sh",
        "SLURM_NTASKS": str(nodes * here),
        "SLURM_NNODES": str(nodes),
        "SLURM_TASKS_PER_NODE": f"{here}(x{nodes})" if nodes > 1 else str(here),
        "SLURM_NODELIST": "gpu[07-09,12]" if nodes > 1 else "gpu07",
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": str(nodes * here),
        "SLURM_STEP_NUM_NODES": str(nodes),
        "SLURM_PROCID": str(node * here + local),
        "SLURM_LOCALID": str(local),
        "SLURM_NODEID": str(node),
    }


GRIDS = [(1, 2), (2, 1), (2, 2)]


@pytest.mark.parametrize("launcher", ["torchrun", "SLURM"])
@pytest.mark.parametrize(("nodes", "here"), GRIDS)
def test_grids(launcher: str, nodes: int, here: int) -> None:
    environment = {"torchrun": _torchrun, "SLURM": _slurm}[launcher]
    address, port = {"torchrun": ("first", 29500), "SLURM": ("gpu07", 15000 + 2345)}[launcher]
    for node in range(nodes):
        for local in range(here):
            found = launched_world(environment(nodes, here, node, local))
            rank = node * here + local
            assert found == World(rank, nodes * here, local, here, node, nodes, launcher, address, port)
            assert found.even
            assert found.certain


def test_nobody_started_anything() -> None:
    assert launched_world({}) == World()
    # The children of Lightning's own launcher.
    assert launched_world({"WORLD_SIZE": "2", "LOCAL_RANK": "1", "NODE_RANK": "0"}) == World()


def test_slurm_with_the_fewest_variables() -> None:
    found = [
        launched_world({"SLURM_NTASKS": "2", "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)}) for i in (0, 1)
    ]
    assert [(w.rank, w.size, w.local_rank, w.local_size, w.nodes) for w in found] == [
        (0, 2, 0, 2, 1),
        (1, 2, 1, 2, 1),
    ]
    assert not found[0].certain


def test_a_step_of_slurm_is_what_counts_not_its_job() -> None:
    step = {**_slurm(2, 4, 0, 0), "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "2"}
    found = launched_world({**step, "SLURM_STEP_TASKS_PER_NODE": "1(x2)"})
    assert (found.size, found.local_size, found.nodes) == (2, 1, 2)
    assert launched_world({**step, "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NUM_NODES": "1"}) == World()


def test_machines_with_different_numbers_of_tasks() -> None:
    common = {**_slurm(2, 2, 0, 0), "SLURM_NTASKS": "3", "SLURM_STEP_NUM_TASKS": "3"}
    common["SLURM_TASKS_PER_NODE"] = "2,1"
    places = [("0", "0", "0"), ("1", "0", "1"), ("2", "1", "0")]
    found = [
        launched_world({**common, "SLURM_PROCID": p, "SLURM_NODEID": n, "SLURM_LOCALID": i})
        for p, n, i in places
    ]
    assert [w.local_size for w in found] == [2, 2, 1]
    assert not any(w.even for w in found)


@pytest.mark.parametrize("name", ["bash", "interactive"])
def test_a_shell_of_slurm_is_one_process(name: str) -> None:
    # salloc, or srun --pty with one task in a job of several; and salloc without a step of its own.
    shell = {"SLURM_JOB_NAME": name, "SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    assert launched_world(shell) == World()
    assert launched_world({**shell, "SLURM_STEP_NUM_TASKS": "1"}) == World()
    assert launched_world({k: v for k, v in shell.items() if k != "SLURM_PROCID"}) == World()


def test_srun_in_a_shell_of_slurm_is_a_world(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [{**_slurm(1, 2, 0, i), "SLURM_JOB_NAME": "interactive"} for i in (0, 1)]
    assert [launched_world(t).size for t in tasks] == [2, 2]
    nested = [{**t, "SLURM_PTY_PORT": "40000"} for t in tasks]
    monkeypatch.setattr(world_module, "_has_terminal", lambda: False)
    assert [launched_world(t).size for t in nested] == [2, 2]
    # The same variables and a terminal: `srun --pty -n 2 bash`, whose second task runs nothing of ours.
    monkeypatch.setattr(world_module, "_has_terminal", lambda: True)
    assert launched_world(nested[0]) == World()


def test_torchrun_comes_before_slurm() -> None:
    # One task of SLURM per machine, each with a torchrun of two processes.
    found = launched_world({**_slurm(2, 1, 1, 0), **_torchrun(2, 2, 1, 1)})
    assert (found.launcher, found.rank, found.size) == ("torchrun", 3, 4)


def test_mpi() -> None:
    environment = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}
    environment |= {"OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}
    found = launched_world(environment)
    assert (found.rank, found.size, found.local_rank, found.nodes) == (1, 2, 1, 1)
    assert found.address == "127.0.0.1"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2, but RANK is not set.* or unset WORLD_SIZE"),
        ({"WORLD_SIZE": "2", "LOCAL_RANK": "1"}, "WORLD_SIZE is 2, but RANK is not set"),
        ({"RANK": "1"}, "RANK is 1, but WORLD_SIZE is not set"),
        ({"RANK": "0"}, "RANK is 0, but WORLD_SIZE is not set.* or unset RANK"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "process 2 of 2"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK must be a whole number, found 'one'"),
        ({"SLURM_PROCID": "2", "SLURM_NTASKS": "2"}, "process 2 of 2"),
    ],
)
def test_contradictions(environment: dict[str, str], message: str) -> None:
    with pytest.raises(WorldError, match=message):
        launched_world(environment)


@pytest.mark.parametrize(("numbers", "flag"), [({"devices": 1}, "--devices"), ({"nodes": 1}, "--num-nodes")])
def test_numbers_that_contradict_the_launcher(numbers: dict[str, int], flag: str) -> None:
    world = launched_world(_torchrun(2, 2, 0, 0))
    with pytest.raises(WorldError, match=f"{flag} 1, but torchrun started 4 processes.*leave {flag} out"):
        refuse_other(world, **{"devices": None, "nodes": None, **numbers})
    refuse_other(world, devices=2, nodes=2)


def test_processes_that_lightning_starts_are_counted_by_it() -> None:
    assert launched_world({"WORLD_SIZE": "2", "LOCAL_RANK": "1", "NODE_RANK": "0"}) == World()


def test_shares_are_everything_once() -> None:
    items = list("abcdefg")
    shares = [list(World(rank=i, size=3, local_rank=i, local_size=3).share(items)) for i in range(3)]
    assert sorted(pair for share in shares for pair in share) == list(enumerate(items))
    assert [len(s) for s in shares] == [3, 2, 2]


def test_has_terminal_is_about_the_terminal(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = "from stable_audio.data.world import _has_terminal; print(_has_terminal())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, start_new_session=True, check=True
    )
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu07", "gpu07"),
        ("gpu07,gpu09", "gpu07"),
        ("gpu[07-09,12],cpu1", "gpu07"),
        ("gpu[12,14-16]-ib", "gpu12-ib"),
        ("rack[1-2]node[01-04,07]", "rack1node01"),
        ("login,rack[1-2]node[01-04]", "login"),
        ("a[3]b[4-5]c,d[1-2]", "a3b4c"),
    ],
)
def test_the_first_machine_of_every_form_of_list(nodes: str, first: str) -> None:
    for name in ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"):
        environment = {k: v for k, v in _slurm(2, 1, 1, 0).items() if k != "SLURM_NODELIST"}
        assert launched_world({**environment, name: nodes}).address == first


def test_tasks_of_an_array_and_steps_of_a_job_meet_apart() -> None:
    job = _slurm(1, 2, 0, 0)
    array = {"SLURM_ARRAY_JOB_ID": "4712345", "SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_ID": "4712349"}
    environments = [job, {**job, **array}, {**job, "SLURM_STEP_ID": "1"}]
    ports = [launched_world(environment).port for environment in environments]
    assert len(set(ports)) == 3
    other = {**_slurm(1, 2, 0, 1), "SLURM_STEP_ID": "1"}
    assert launched_world(other).port == ports[2]


@pytest.mark.parametrize("size", ["SLURM_HET_SIZE", "SLURM_PACK_SIZE"])
def test_a_heterogeneous_job_is_told_where_to_meet(size: str) -> None:
    part = {**_slurm(2, 2, 1, 1), size: "2"}
    world = launched_world(part)
    assert (world.address, world.port) == (None, None)
    world = launched_world({**part, "MASTER_ADDR": "gpu01", "MASTER_PORT": "29500"})
    assert (world.address, world.port) == ("gpu01", 29500)
