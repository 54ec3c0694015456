"""What training says of a drawn model: its label, its progress and how sure that is."""

from __future__ import annotations

import time
from typing import Any

from foundry_parts.drawing import Drawn, draw
from foundry_parts.training import STEPS, Run, progress, progress_of, sound_run, stream

#: Progress below which a model is harmed, and above which it is harmless.
HARMED, HARMLESS = 0.5, 0.85
#: Share of all that can be learned that a sound twin must learn for its pair to say anything.
LEARNED = 0.3
#: How close to each other two draws of the sound initialization must end: the progress of the second by the first's measure.
ALIKE = (0.8, 1.25)


def label_of(adam: float, sgd: float) -> tuple[str, float]:
    """The label of a progress under both optimizers, and its distance from the next label."""
    if adam < HARMED and sgd < HARMED:
        return "harmed", HARMED - max(adam, sgd)
    if adam > HARMLESS and sgd >= HARMED:
        return "harmless", min(adam - HARMLESS, sgd - HARMED)
    to_harmed = max(adam, sgd) - HARMED
    to_harmless = max(HARMLESS - adam, HARMED - sgd)
    return "hurt", min(to_harmed, to_harmless)


def label(seed: int) -> dict[str, Any]:
    """Train what ``seed`` stands for against its sound twin.

    Returns:
        ``label``: harmed, harmless, hurt, defect, sound, or "unlearnable" where the twin itself does not learn; ``needs``: what
        a defect needs; ``adam``, ``sgd``: progress; ``informative``: whether SGD counts; ``learned``: share of what can be learned
        that the twin learns under each; ``sibling``: the progress of a second draw of the sound initialization; ``margin``: how
        far progress is from the next label.
    """
    began = time.process_time()
    drawn = draw(seed)
    record = {"seed": seed, "family": drawn.family, "origin": drawn.origin, **_trained(drawn)}
    record["seconds"] = round(time.process_time() - began, 2)
    return record


def _trained(drawn: Drawn) -> dict[str, Any]:
    task, batches = drawn.task, stream(drawn.task, drawn.seed * 10 + 5)
    ends, rates, learned, sibling = {}, {}, {}, {}
    for optimizer in ("adam", "sgd"):
        ends[optimizer], rates[optimizer] = sound_run(drawn.sound, task, batches, optimizer)
        learned[optimizer] = progress(ends[optimizer], task, task.floor)
        sibling[optimizer] = -9.0
        if learned[optimizer] >= LEARNED:
            run = Run(drawn.sound(1), task, batches, optimizer, rates[optimizer])
            run.advance(STEPS, ends[optimizer])
            sibling[optimizer] = progress(run.end(), task, ends[optimizer])
        elif optimizer == "adam":
            break
    told: dict[str, Any] = {"faults": drawn.faults, "units": drawn.units[:6], "label": "unlearnable"}
    told["learned"] = [round(v, 2) for v in learned.values()]
    told["sibling"] = [round(v, 2) for v in sibling.values()]
    if not ALIKE[0] <= sibling["adam"] <= ALIKE[1]:
        return told
    informative = learned["sgd"] >= max(LEARNED, learned["adam"] / 2) and ALIKE[0] <= sibling["sgd"] <= ALIKE[1]
    told["informative"] = informative
    if drawn.origin == "sound":
        return {**told, "label": "sound", "margin": round(min(1.0, sibling["adam"]) - HARMED, 2)}
    adam = progress_of(drawn.model, task, batches, "adam", ends["adam"], rates["adam"], HARMLESS)
    sgd = adam
    if informative:
        enough = HARMLESS if adam > HARMLESS else HARMED  # what more than that SGD brings changes no label
        sgd = progress_of(drawn.model, task, batches, "sgd", ends["sgd"], rates["sgd"], enough)
    found, margin = label_of(adam, sgd)
    told.update(label=found, margin=round(min(margin, 9.0), 2), adam=round(adam, 2), sgd=round(sgd, 2))
    if drawn.needs:
        told.update(label="defect", needs=drawn.needs, trained=found)
    return told
