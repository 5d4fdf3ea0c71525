"""Reads a story, plays it on a stage, and writes down what really happened.

A story is a text file of scenes, parted by blank lines: comments (`# ...`), one line of the script, `----`, and the
exact output. The verbs are the public methods of `stage.Stage` and `peers.PeersStage`.
"""

from __future__ import annotations

from tests.traces.peers import PeersStage

__all__ = ["played"]

RULE = "----"


def played(story: str) -> str:
    """The same story with the output that the code gives now."""
    stage = PeersStage()
    return "\n\n".join(_scene(stage, scene) for scene in story.strip().split("\n\n")) + "\n"


def _scene(stage: PeersStage, scene: str) -> str:
    head = scene.partition(f"\n{RULE}")[0].splitlines()
    script = [line for line in head if not line.startswith("#")]
    if not script:
        return "\n".join(head)
    if len(script) > 1:
        raise ValueError(f"a scene is one line of the script, not {len(script)}: {script}")
    verb, *arguments = script[0].split()
    return "\n".join([*head, RULE, *stage.run(verb, arguments)])
