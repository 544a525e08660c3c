"""The role that the name of an array or column tells: neural activity, behaviour, a clock, a helper, or none.

Names are read word by word: `frameTimes`, `frame_times` and `frame times (ms)` are the words frame, times,
    (ms).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal

Role = Literal["activity", "behaviour", "clock", "counter", "helper", "unknown"]


def listed(text: str) -> frozenset[str]:
    """The entries of a list with commas."""
    return frozenset(" ".join(entry.split()) for entry in text.split(","))


# Words that only neural activity is called by.
_ACTIVITY = listed(
    """
    dff, df, dfof, dfoverf, deltaf, zdff, fluorescence, fluo, calcium, ca, gcamp, neural, neurons,
    neuronal, activity, spks, spike, spikes, deconv, deconvolved, raster, rasters, resp,
    response, responses, firing, denoised, zscore, zscored, psp
    """
)
# Words for it that are said of other recordings too.
_TRACES = {"trace", "traces", "signal", "signals", "timeseries", "events"}
# Whole names that the field's tools give to it.
_TOOL_ACTIVITY = {"c raw", "f dff", "f raw", "temporal weights"}
# Whole names of what these tools store beside it: neuropil, residuals, backgrounds.
_TOOL_HELPERS = listed(
    """
    fneu, yra, f0, b0, bl, neurons sn, coordinates, fchan2, fneu chan2, f chan2, iscell, redcell, stat,
    ops, pc features, pc feature ind, similar templates, whitening mat, whitening mat inv, kept spikes,
    spike positions, spike detection templates
    """
)
_BEHAVIOUR = {
    "pose",
    "poses",
    "keypoint",
    "keypoints",
    "kinematic",
    "kinematics",
    "lick",
    "licks",
    "licking",
    "run",
    "running",
    "speed",
    "velocity",
    "vel",
    "pos",
    "position",
    "positions",
    "wheel",
    "pupil",
    "whisk",
    "whisker",
    "whiskers",
    "whisking",
    "behav",
    "behavior",
    "behaviour",
    "behavioral",
    "behavioural",
    "motion",
    "movement",
    "mvmt",
    "accel",
    "acceleration",
    "accelerometer",
    "gyro",
    "imu",
    "quaternion",
    "qw",
    "qx",
    "qy",
    "qz",
    "lever",
    "treadmill",
    "joystick",
    "reward",
    "rewards",
    "punish",
    "stim",
    "stimulus",
    "stimuli",
    "odor",
    "odour",
    "tone",
    "sound",
    "choice",
    "valve",
    "ttl",
    "ttls",
    "led",
    "ledstate",
    "laser",
    "sync",
    "trigger",
    "camera",
    "cam",
    "video",
    "eye",
    "gaze",
    "saccade",
    "face",
    "facial",
    "nose",
    "snout",
    "tail",
    "paw",
    "limb",
    "joint",
    "angle",
    "angles",
    "heading",
    "curvature",
    "breathing",
    "respiration",
    "heart",
    "ecg",
    "emg",
    "eeg",
    "lfp",
    "ephys",
    "temperature",
    "torque",
    "distance",
    "tracking",
    "dlc",
    "deeplabcut",
    "sleap",
    "likelihood",
    "body",
    "head",
    "xy",
    "xpos",
    "ypos",
    "cue",
    "cues",
    "flags",
    "flag",
    "digital",
    "daq",
    "nidaq",
    "bpod",
    "arduino",
    "locomotion",
    "location",
}
_CLOCK = listed(
    """
    time, times, timestamp, timestamps, t, ts, clock, datetime, date, tvec, frametimes, systemtimestamp,
    computertimestamp, seconds, sec, secs, msec, ms
    """
)
_COUNTER = listed(
    """
    frame, frames, framecounter, counter, index, idx, sample, samples, nr, number, trial, trials, epoch,
    segment, block, row
    """
)
# Words that say of anything that it is no recording: statistics of it, or where it lies.
_HELPER = listed(
    """
    mean, avg, average, averages, median, std, sd, sem, var, variance, min, max, psth, peth, eta,
    tuning, curve, curves, corr, correlation, correlations, cov, covariance, coherence, pval, pvals,
    pvalue, pvalues, weights, pca, coef, coefs, loadings, score, scores, params, parameters, mask,
    masks, footprint, footprints, spatial, contour, contours, centroid, centroids, coords, map, maps,
    image, images, img, imgs, template, templates, kernel, kernels, whitening, similarity, amplitude,
    amplitudes, channel, channels, probe, geometry, registration, shift, shifts, snr, threshold,
    thresholds, hist, histogram, edges, index, indices, idx, ind, inds, id, ids, label, labels,
    neuropil, background, baseline, mapping, aligned, peri, perievent, statistics, stats, pixel, pixels,
    bins, coordinates, coordinate, assignment, assignments
    """
)
# Words of stimuli among those of behaviour.
_STIMULI = listed(
    """
    stim, stimulus, stimuli, stims, odor, odour, odors, odours, tone, sound, valve, led, ledstate, laser,
    cue, cues, light, lights, opto, optogenetic, optogenetics, photostim,
    photostimulation, stimulation, shock, puff, airpuff, tap, grating, gratings, contrast, orientation,
    visual, auditory, tactile, disc, dots, looming, spot, drug, concentration, go, nogo, flash,
    vibration, heat
    """
)
# Words of what an animal decides, or what follows from it.
_OF_THE_ANIMAL = listed(
    """
    choice, choices, reward, rewards, rewarded, punish, punished, punishment, outcome, outcomes, hit, hits,
    miss, misses, correct, incorrect, error, errors, reaction, rt, feedback, abort, aborted, poke, pokes,
    press, presses, lick, licks, licking, licked, chosen, response, responses, responded, resp, decision,
    success, failure, performance, consumed
    """
)
_SPLIT = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|µs")


@lru_cache(maxsize=10_000)
def words_of(name: str) -> tuple[str, ...]:
    """The words of the last part of a path, in lower case and without numbers."""
    last = name.rstrip("/").rpartition("/")[2]
    words = [word.lower() for word in _SPLIT.findall(last) if not word.isdigit()]
    joined = " ".join(words).replace("z score", "zscore").replace("d f f", "dff").replace("d f", "df")
    joined = joined.replace("k hz", "khz").replace("m hz", "mhz")
    return tuple(joined.split())


@lru_cache(maxsize=10_000)
def role_of(name: str) -> Role:
    """The role of an array by its name; where the name says nothing, by the folders above it."""
    own = _own_role(name)
    if own != "unknown" and not _is_general(name):
        return own
    folders = name.rstrip("/").split("/")[:-1]
    for folder in reversed(folders):
        words = set(words_of(folder))
        if words & _BEHAVIOUR and not words & _ACTIVITY:
            return "behaviour"
        if words & _ACTIVITY:
            return "activity"
    return own


def role_of_file(stem: str) -> Role:
    """The role of the one array in a file, by the name of the file: its last word counts, others name the
    experiment."""
    whole = re.sub(r"[\s_]+", " ", stem.lower()).strip()
    words = words_of(stem)
    if whole in _TOOL_HELPERS:
        return "helper"
    if set(words) & _ACTIVITY or _own_role(stem) == "activity":
        return "helper" if words and words[-1] in _HELPER - {"mean", "avg", "average"} else "activity"
    last = words[-1] if words else ""
    if last in _HELPER:
        return "helper"
    if last in _CLOCK and len(last) > 2:
        return "clock"
    return "behaviour" if last in _BEHAVIOUR else "unknown"


def rank_of(name: str) -> int:
    """How surely a name says that traces are meant: 0 for dF/F, 1 for traces, 2 for other activity, 3 for
    nothing."""
    if role_of(name) != "activity":
        return 3
    plain = "".join(words_of(name))
    if plain in {"dff", "dfof", "dfoverf", "deltaff", "deltafoverf", "dfftraces", "dftraces", "fdff"}:
        return 0
    if plain in {"traces", "neural", "activity", "neuralactivity", "neuraldata", "calciumtraces"}:
        return 1
    return 2


def is_behaviour(name: str) -> bool:
    return role_of(name) == "behaviour"


def depends_on_animal(name: str) -> bool:
    """Whether a name tells of what the animal does or what that leads to, so that nobody can plan it."""
    words = set(words_of(name))
    return bool(words & _OF_THE_ANIMAL) or bool(words & (_BEHAVIOUR - _STIMULI) and not words & _STIMULI)


def is_stimulus(name: str) -> bool:
    """Whether a name tells of a stimulus, which can be planned."""
    return bool(set(words_of(name)) & _STIMULI) and not depends_on_animal(name)


def is_counter(name: str) -> bool:
    """Whether a name is one of a frame, sample or trial number."""
    words = set(words_of(name))
    return bool(words) and words <= _COUNTER | {"id", "no", "num", "of", "buffer"}


def _is_general(name: str) -> bool:
    """Whether a name says only that it is a series of something, as `traces` does."""
    words = set(words_of(name))
    return bool(words & _TRACES) and not words & (_ACTIVITY | _BEHAVIOUR | _HELPER | _CLOCK)


def _own_role(name: str) -> Role:
    """The role that the last part of a path tells by itself."""
    written = name.rstrip("/").rpartition("/")[2]
    whole = re.sub(r"[\s_]+", " ", written.lower()).strip()
    found = set(words_of(name))
    if re.fullmatch(r"[a-z]\d+", whole):  # C3 or x0012: a letter and a number are any unit's name
        return "unknown"
    if whole in _TOOL_HELPERS:
        return "helper"
    if len(whole) == 1:  # suite2p, CaImAn and minian write capitals
        return "activity" if written in "FCS" else "clock" if whole == "t" else "unknown"
    if whole in _TOOL_ACTIVITY:
        return "activity"
    if found & _HELPER:
        return "helper"
    is_activity = bool(found & _ACTIVITY)
    if found & (_CLOCK - {"t", "ts", "ms", "sec", "secs"}) or (found & _CLOCK and found <= _CLOCK | _COUNTER):
        return "clock"
    if found and found <= _COUNTER:
        return "counter"
    if found & _BEHAVIOUR:
        return "unknown" if is_activity else "behaviour"
    if is_activity or found & _TRACES:
        return "activity"
    return "unknown"
