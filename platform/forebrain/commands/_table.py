"""The table of all commands, which the program and its help both read."""

from __future__ import annotations

# Each command and what it does, by what people come for.
COMMANDS: dict[str, dict[str, str]] = {
    "From recordings to a model": {
        "inspect": "say what would be read from recordings, and in what state they are",
        "data list": "name the public recordings of the catalogue",
        "data get": "download public recordings, checked, and print where they lie",
        "data add": "add a recording of your own to the catalogue",
        "prepare": "read, check and repair recordings into shards that runs train on",
        "pretrain": "train a model on recordings or shards, score it, keep all in a run folder",
        "evaluate": "score a run's best checkpoint again, or compare several runs in one table",
        "publish": "publish a run's checkpoint in a registry",
        "registry": "list, search, pull, verify, sign, copy what a registry holds",
        "page runs": "make a page of runs side by side: configs, curves, scores, pictures",
        "page registry": "make a page of a registry's models: filter them, see who was trained on what",
    },
    "A model for your animal": {
        "adapt": "fit a published model to one recording, or to many",
        "page adapted": "make a page of one adaptation, in one file to mail",
        "forecast": "forecast what comes after a recording's end",
        "effect": "forecast the difference that a planned stimulus makes",
        "live serve": "forecast while recording: frames in, forecasts out",
        "live watch": "show the page of a server that runs on another machine",
        "live replay": "play a recording to a server, and measure its latency",
        "live soak": "run a server for long with everything that can be wrong with a stream",
    },
    "Studies": {
        "study ablate": "compare variants of a run: ablations, models, settings",
        "study scale": "see how the score grows with data, units, context or model",
        "study embeddings": "see what a run's unit embeddings know of regions and names",
        "study rivals": "score what a recording can do for itself, and its noise ceiling",
        "study intervals": "score how sure forecasts are: what intervals cover, beside autoregressions",
        "study leave-one-out": "pretrain on all animals but one and adapt to it, each in turn",
        "study minutes": "the same by minutes of the new animal that are known",
        "study population": "see what reading the other units is worth, on animals left out",
        "study backbone": "make a backbone to hand out, from public recordings to its scores",
        "study inputs": "score what knowing the stimulus is worth, past and planned",
        "leaks": "measure what looking into the future would seem to gain",
    },
    "Machines": {
        "doctor": "say what is here, and what is missing for which command",
        "plan": "calculate a pretraining that is too large to try",
        "benchmark": "time forecasts, training, adaptation, loading, several workers",
        "chaos": "kill parts of a run at random, and account for what that cost",
        "parity": "check the model against the published implementation",
        "completion": "print what completes these commands in bash or zsh",
    },
}
SUMMARIES = {name: summary for group in COMMANDS.values() for name, summary in group.items()}
