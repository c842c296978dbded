"""`python -m tests.scenarios`: play scenarios, compare them with their files, or write those anew."""

import argparse
import difflib
import sys
import time

from middlewared.plugins.failover.actions import Action
from tests.scenarios.crash import Crash, past
from tests.scenarios.interruption import play_to_the_end, try_all
from tests.scenarios.runner import Outcome, Player, everything, quieten
from tests.scenarios.script import FOLDER, Script, ScriptError, find


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.scenarios", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="part of a scenario's name (default: all)")
    parser.add_argument("--rewrite", action="store_true", help="write the files anew, unless an oracle objects")
    parser.add_argument("--print", action="store_true", dest="printing", help="print what happens, write nothing")
    parser.add_argument(
        "--crash", nargs=3, metavar=("N", "WHAT", "WHOSE"),
        help="play one scenario in which something dies right after the Nth action of an engine: controller, daemon or "
        "keeper, of the actor or of the other",
    )  # fmt: skip
    parser.add_argument("--interrupt", action="store_true", help="let everything die after every action (ten minutes)")
    parser.add_argument(
        "--every", type=int, default=1, metavar="N",
        help="with --interrupt: one crash in N, the same ones in every run, and those that failed once",
    )  # fmt: skip
    arguments = parser.parse_args()
    try:
        scripts = find(arguments.names)
    except ScriptError as error:
        print(error, file=sys.stderr)
        return 2
    if arguments.crash is not None:
        number, kind, who = arguments.crash
        return crash(scripts[0], Crash(scripts[0].name, int(number), kind, who))
    if arguments.interrupt:
        return interrupt(scripts, arguments.every)
    failed = 0
    for outcome in everything(scripts):
        failed += not tell(outcome, rewrite=arguments.rewrite, printing=arguments.printing)
    print(f"{len(scripts)} scenarios, {failed} failed")
    return 1 if failed else 0


def crash(script: Script, wanted: Crash) -> int:
    """One interrupted scenario, with everything that happens to the end."""
    quieten()

    def acted(player: Player, number: int, actor: str, action: Action) -> None:
        if number == wanted.number and player.world is not None:
            player.crash = wanted
            wanted.prepare(player.world, actor)

    player = Player(script, on_action=acted, trying=False)
    trouble = play_to_the_end(player)
    print(player.render())
    print(trouble or "clean")
    return 1 if trouble else 0


def interrupt(scripts: list[Script], every: int) -> int:
    """What may die after each action, or a sample of it; for each failure, how to play it again."""
    began_s, count, failed = time.monotonic(), 0, 0
    for trials in try_all(scripts, every, past()):
        count += trials.count
        for trial, trouble in trials.failures:
            failed += 1
            print(f"{trial}\n    {trouble}", flush=True)
    print(f"{count} interruptions, {failed} failed, {time.monotonic() - began_s:.0f} s")
    return 1 if failed or not count else 0


def tell(outcome: Outcome, *, rewrite: bool, printing: bool) -> bool:
    name = outcome.script.name
    if printing:
        print(outcome.text)
    if outcome.trouble:
        print(f"{name}: {outcome.trouble}")
        return False
    if outcome.fresh or printing:
        return True
    if rewrite:
        (FOLDER / f"{name}.txt").write_text(outcome.text)
        print(f"{name}: written")
        return True
    print(difference(outcome))
    return False


def difference(outcome: Outcome) -> str:
    """A unified diff, and what to do about it."""
    name = outcome.script.name
    before, after = outcome.script.text.splitlines(), outcome.text.splitlines()
    lines = difflib.unified_diff(before, after, f"{name}.txt", f"{name} as it happens now", lineterm="")
    return "\n".join([*lines, f"If this is what should happen: python -m tests.scenarios --rewrite {name}"])


if __name__ == "__main__":
    sys.exit(main())
