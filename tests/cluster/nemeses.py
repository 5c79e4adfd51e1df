"""What happens to machines and cables, while a crowd asks: each fault, until the others have gone on, and its end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from random import Random

from tests.cluster.cable import Conditions
from tests.cluster.crowd import FAULT_S, Crowd
from tests.cluster.engine_of import engine_of
from tests.cluster.whole_machines import Machine, Machines
from tests.system.harness import Server, processes_of, wait_for

Fault = Callable[[Machines, Crowd, Random], None]
"""Something that happens. Whom it happens to is by chance."""


def cut_off(machines: Machines, crowd: Crowd, machine: Machine, *, heard: bool = False, hears: bool = False) -> None:
    """Cut a machine off until the others have gone on without it, and wait until it has come back."""
    others = machines.others(machine)
    machines.network.cut(machine.name, heard=heard, hears=hears)
    try:
        wait_for(lambda: machine.name not in others[0].members(), f"{machine.name} is put out", FAULT_S)
        crowd.wait_for_more(others)
    finally:
        machines.network.heal(machine.name)
    wait_for(machine.is_ready, f"{machine.name} is back", FAULT_S)


def cut_a_follower(machines: Machines, crowd: Crowd, chance: Random) -> None:
    cut_off(machines, crowd, chance.choice(machines.others(machines.leader())))


def cut_the_leader(machines: Machines, crowd: Crowd, chance: Random) -> None:
    cut_off(machines, crowd, machines.leader())


def cut_what_one_says(machines: Machines, crowd: Crowd, chance: Random) -> None:
    cut_off(machines, crowd, chance.choice(machines.all), hears=True)


def cut_what_one_hears(machines: Machines, crowd: Crowd, chance: Random) -> None:
    cut_off(machines, crowd, chance.choice(machines.all), heard=True)


@contextmanager
def cables(machines: Machines, among: Sequence[Machine], from_it: Conditions, to_it: Conditions) -> Iterator[None]:
    """Have the cables of some machines like that."""
    try:
        for machine in among:
            machines.network.shape(machine.name, from_it, to_it)
        yield
    finally:
        for machine in among:
            machines.network.heal(machine.name)


def throttle_one(machines: Machines, crowd: Crowd, chance: Random) -> None:
    """Have one machine send slowly, and lose what is too much."""
    with cables(machines, [chance.choice(machines.all)], Conditions(kbit=512), Conditions()):
        crowd.wait_for_more(machines.all)


def delay_all(machines: Machines, crowd: Crowd, chance: Random) -> None:
    """Have every frame between two machines take 50 ms, 20 more or less."""
    half = Conditions(delay_s=0.025, jitter_s=0.010)  # each crosses two cables
    with cables(machines, machines.all, half, half):
        crowd.wait_for_each()


def lose_frames(machines: Machines, crowd: Crowd, chance: Random) -> None:
    """Lose one frame in twenty between any two machines."""
    half = Conditions(loss=0.025)
    with cables(machines, machines.all, half, half):
        crowd.wait_for_each()


def move_one_far_away(machines: Machines, crowd: Crowd, chance: Random) -> None:
    """Have every frame to and from one machine take 150 ms."""
    far = Conditions(delay_s=0.150, jitter_s=0.010)
    with cables(machines, [chance.choice(machines.all)], far, far):
        crowd.wait_for_each()


def stall(machines: Machines, crowd: Crowd, machine: Machine, pids: Sequence[int]) -> None:
    """Stop some processes of a machine where they are, until the others have gone on."""
    send(pids, signal.SIGSTOP)
    try:
        crowd.wait_for_more(machines.others(machine))
    finally:
        send(pids, signal.SIGCONT)


def send(pids: Sequence[int], number: signal.Signals) -> None:
    """Send a signal to those processes that there still are."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def stall_an_engine(machines: Machines, crowd: Crowd, chance: Random) -> None:
    """Stop the engine that leads where it is, until another one leads."""
    machine = machines.leader()
    stall(machines, crowd, machine, [engine_of(machine)])


def stall_a_server(machines: Machines, crowd: Crowd, chance: Random) -> None:
    """Stop the shard of a machine where it is, while its engine works."""
    machine = chance.choice(machines.all)
    stall(machines, crowd, machine, machine.ask(Machine.shard_pids))


def stall_a_machine(machines: Machines, crowd: Crowd, chance: Random) -> None:
    """Stop everything on one machine, as a virtual machine is stopped."""
    machine = chance.choice(machines.all)
    stall(machines, crowd, machine, processes_of(machine.run_dir))


def stutter(pids: Sequence[int], chance: Random) -> None:
    """Let some processes stop and go on in short turns."""
    for _ in range(60):
        for number, longest_s in ((signal.SIGSTOP, 0.2), (signal.SIGCONT, 0.1)):
            send(pids, number)
            time.sleep(chance.uniform(0.01, longest_s))


def stutter_an_engine(machines: Machines, crowd: Crowd, chance: Random) -> None:
    stutter([engine_of(chance.choice(machines.all))], chance)


def stutter_a_server(machines: Machines, crowd: Crowd, chance: Random) -> None:
    """Whoever asks it sees things late."""
    stutter(chance.choice(machines.all).ask(Machine.shard_pids), chance)


def stutter_a_machine(machines: Machines, crowd: Crowd, chance: Random) -> None:
    stutter(processes_of(chance.choice(machines.all).run_dir), chance)


def kill_an_engine(machines: Machines, crowd: Crowd, chance: Random) -> None:
    os.kill(engine_of(chance.choice(machines.all)), signal.SIGKILL)


def kill_the_leading_engine(machines: Machines, crowd: Crowd, chance: Random) -> None:
    os.kill(engine_of(machines.leader()), signal.SIGKILL)


def kill_a_process(machines: Machines, crowd: Crowd, chance: Random) -> None:
    """Kill one process of a machine that its supervisor starts again."""
    machine = chance.choice(machines.all)
    assert machine.process is not None
    pids = sorted(pid for pid in processes_of(machine.run_dir) if pid != machine.process.pid)
    send([chance.choice(pids)], signal.SIGKILL)


def kill_a_machine(machines: Machines, crowd: Crowd, chance: Random) -> None:
    """Kill everything on one machine, and start it when the others have gone on."""
    machine = chance.choice(machines.all)
    machine.kill()
    crowd.wait_for_more(machines.others(machine))
    machine.start()


def kill_all(machines: Machines, crowd: Crowd, chance: Random) -> None:
    """Kill everything everywhere, and start it again."""
    for machine in machines.all:
        machine.kill()
    machines.start()


def lose_all_power(machines: Machines, crowd: Crowd, chance: Random) -> None:
    """Let the power of all machines fail at one moment: what their disks had not flushed is lost."""
    with crowd.in_the_dark():
        machines.lose_power()
    machines.boot()


def set_clocks_apart(machines: Machines, crowd: Crowd, chance: Random) -> None:
    """Set the clock of one machine an hour ahead, and of another one an hour back, and then all of them right."""
    ahead, behind, _ = chance.sample(machines.all, 3)
    clocks = machines.surroundings.clocks
    try:
        for machine, seconds in ((ahead, 3600), (behind, -3600)):
            clocks[machine.name].set_ahead(seconds)
        wait_for(lambda: min(map(difference, machines.all)) > 3000, "they say that they differ", FAULT_S)
        wait_for(lambda: all(machine.ask(puts_for_a_second) for machine in machines.all), "keys that expire", FAULT_S)
        crowd.wait_for_each()
        wait_for(lambda: all(machine.ask(is_empty) for machine in machines.all), "their end", FAULT_S)
        clocks[ahead.name].set_ahead(-3600)
        crowd.wait_for_each()
    finally:
        for clock in clocks.values():
            clock.set_ahead(0)
    wait_for(lambda: max(map(difference, machines.all)) < 5, "they say that they are right", FAULT_S)
    crowd.wait_for_each()


def puts_for_a_second(server: Server) -> bool:
    """Write a key that soon expires; false: it was not answered."""
    with server.client() as client:
        return client.put(f"/v1/kv/short/{server.port}?ttl=1", content="v").is_success


def is_empty(server: Server) -> bool:
    """Whether nothing is left of what was put for a second."""
    with server.client() as client:
        return not client.get("/v1/kv?prefix=short/").raise_for_status().json()["items"]


def difference(machine: Machine) -> float:
    """By how much the clocks of machines differ, as one of them says."""
    found: float = machine.ask(Machine.status)["cluster"]["clock_difference_s"]
    return found


def fill_a_disk(machines: Machines, crowd: Crowd, chance: Random) -> None:
    """Leave no room on one machine's disk, until the others have gone on; then as the manual says."""
    machine, disks = chance.choice(machines.all), machines.surroundings.disks
    assert disks is not None
    disks.fill(machine.name)
    try:
        crowd.wait_for_more(machines.others(machine), times=5)
    finally:
        disks.make_room(machine.name)
    os.kill(engine_of(machine), signal.SIGKILL)
    wait_for(machine.is_ready, f"{machine.name} is back", FAULT_S)


def damage_an_engine(machines: Machines, crowd: Crowd, chance: Random) -> None:
    """Wipe, cut short or change files of messages of one machine's engine. The machine comes back, or says why not."""
    machine, disks = chance.choice(machines.all), machines.surroundings.disks
    assert disks is not None
    how, seed = chance.choice(("wipe", "cut", "flip", "remove")), chance.getrandbits(32)
    machine.kill()
    crowd.wait_for_more(machines.others(machine))
    print(disks.run_python(_DAMAGE, str(machine.data_dir / "engine"), how, str(seed)), end="", flush=True)
    machine.start()
    wait_for(lambda: machine.is_ready() or machine.stopped(), f"{machine.name} is back, or says why not", FAULT_S)
    if machine.stopped():
        print(f"{machine.name} stopped: {machine.stopped()}", flush=True)
        machine.stop()
        disks.run_python(_EMPTY, str(machine.data_dir))
        machine.start()
        wait_for(machine.is_ready, f"{machine.name} is back", FAULT_S)


_DAMAGE = """
import random, shutil, sys
from pathlib import Path
home, how, chance = Path(sys.argv[1]), sys.argv[2], random.Random(int(sys.argv[3]))
found = [path for path in home.rglob("*.blk") if "streams" in path.parts]
for path in found:
    data = bytearray(path.read_bytes())
    if how == "wipe":
        path.unlink()
    elif how == "cut":
        path.write_bytes(data[: chance.randrange(len(data) + 1)])
    elif how == "flip" and data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
if how == "remove":
    shutil.rmtree(home / "jetstream")
print(how, len(found), "files of messages")
"""
_EMPTY = """
import shutil, sys
from pathlib import Path
for path in Path(sys.argv[1]).iterdir():
    if path.name != "engine":
        shutil.rmtree(path) if path.is_dir() else path.unlink()
"""
"""Removes what is in a data directory, but for the engine's files."""

ALL: tuple[Fault, ...] = (
    cut_a_follower,
    cut_the_leader,
    cut_what_one_says,
    cut_what_one_hears,
    throttle_one,
    delay_all,
    lose_frames,
    move_one_far_away,
    stall_an_engine,
    stall_a_server,
    stall_a_machine,
    stutter_an_engine,
    stutter_a_server,
    stutter_a_machine,
    kill_an_engine,
    kill_the_leading_engine,
    kill_a_process,
    kill_a_machine,
    kill_all,
    lose_all_power,
    set_clocks_apart,
    fill_a_disk,
    damage_an_engine,
)
"""Every fault."""
