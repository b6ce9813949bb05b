"""The shootout's report as one HTML page: figures as a table with bars, clips side by side, rules as they were applied.

The page needs no network and no JavaScript; with it the table can be sorted, and the clips of a keyframe play together.
"""

from __future__ import annotations

import html
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.shootout import MEMORY_GIB, SECONDS_MAX, STEADY_MIN, ClipFigures, Contestant, Figure, Figures, Rule, rules

_STYLE = """
:root { color-scheme: light dark; --line: #8886; --bar: #3a7bd5; --bad: #c33; --dim: #8889 }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 90rem; padding: 0 1rem }
table { border-collapse: collapse; width: 100% }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .6rem; text-align: right; vertical-align: top }
th:first-child, td:first-child, .words { text-align: left }
th[data-sort] { cursor: pointer }
th[aria-sort]::after { content: " ↓" } th[aria-sort=ascending]::after { content: " ↑" }
.scroll { overflow-x: auto } .out { opacity: .75 } .why { color: var(--bad); font-size: .9em }
.bar { background: var(--dim); height: .35rem; min-width: 4rem; margin-top: .2rem }
.bar i { background: var(--bar); display: block; height: 100% }
.row { display: flex; gap: .8rem; overflow-x: auto; padding-bottom: .5rem } figure { margin: 0; flex: 0 0 22rem }
figure img, figure video { width: 100%; background: #000; display: block } figcaption { font-size: .9em }
code { white-space: nowrap }
"""
_SCRIPT = """
for (const head of document.querySelectorAll("th[data-sort]")) head.addEventListener("click", () => {
  const body = head.closest("table").tBodies[0], column = head.cellIndex;
  const down = head.getAttribute("aria-sort") !== "descending";
  const value = row => row.cells[column].dataset.value;
  const order = (a, b) => isNaN(a) || isNaN(b) ? String(a).localeCompare(b) : a - b;
  const rows = [...body.rows].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    return x === "" || y === "" ? (x === "") - (y === "") : (down ? -1 : 1) * order(x, y);
  });
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  body.append(...rows);
});
for (const button of document.querySelectorAll("button[data-row]")) {
  button.hidden = false;
  button.addEventListener("click", () => {
    for (const video of button.closest("section").querySelectorAll("video")) { video.currentTime = 0; video.play(); }
  });
}
"""


@dataclass(frozen=True)
class Shown:
    """One keyframe on the page."""

    name: str
    picture: str
    """Its file, relative to the page."""
    motion: str
    """What the camera does, in words."""
    clips: Mapping[str, str]
    """The clip of each preset that made one, relative to the page."""


@dataclass(frozen=True)
class Terms:
    """Under which the shootout was held."""

    dollars_per_hour: float
    memory_gib: float = MEMORY_GIB


def eliminations(memory_gib: float) -> list[str]:
    """What eliminates a preset, in words."""
    return [
        f"over {SECONDS_MAX:g} s a clip in the mean",
        f"over {memory_gib:g} GiB of the card's memory for any clip",
        "any flash frame that QA finds, in a clip that failed too",
        f"a temporal SSIM below {STEADY_MIN:g} in the median",
        "no clip at all",
    ]


def page(contestants: Sequence[Contestant], keyframes: Sequence[Shown], terms: Terms) -> str:
    """The whole page; the contestants in the order in which they are to stand."""
    cards = ", ".join(dict.fromkeys(one.figures.card for one in contestants)) or "nothing"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        f"<title>Shootout on {_text(cards)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>Shootout on {_text(cards)}</h1>",
        f"<p>{len(contestants)} presets, {len(keyframes)} keyframes, the same motions for all.</p>",
        f"<p>A card costs ${terms.dollars_per_hour:g} an hour.</p>",
        "<p>Figures are medians over the clips that came out; seconds, and what follows from them, are means.</p>",
        _table(contestants, terms),
        "<h2>The clips</h2>",
        "<p>H.265: Safari plays it everywhere, other browsers where the machine decodes it.</p>",
        *(_row(keyframe, contestants) for keyframe in keyframes),
        "<h2>The rules</h2>",
        "<p>A preset is eliminated by any of these; it is scored all the same.</p>",
        f"<ul>{''.join(f'<li>{_text(rule)}</li>' for rule in eliminations(terms.memory_gib))}</ul>",
        _formulas(rules(terms.memory_gib)),
        _notes(),
        f"<script>{_SCRIPT}</script></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _table(contestants: Sequence[Contestant], terms: Terms) -> str:
    parts = [rule.name for rule in rules(terms.memory_gib)]
    heads = ["preset", "score", *parts, "s a clip", "temporal SSIM", "first frame SSIM", "peak GiB", "flash frames",
             "clips a minute", "$ a clip", "clips"]  # fmt: skip
    head = "".join(f'<th data-sort scope="col">{_text(name)}</th>' for name in heads)
    body = "".join(_line(one, terms) for one in contestants)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _line(one: Contestant, terms: Terms) -> str:
    figures = one.figures
    why = "".join(f'<div class="why">{_text(reason)}</div>' for reason in one.eliminated)
    why = f'<div class="why">eliminated</div>{why}' if why else ""
    of = "" if one.out_of == 100 else f" <small>measured: {one.out_of} of 100 points</small>"
    cells = [
        f'<td data-value="{_text(one.preset)}"><b>{_text(one.preset)}</b>{why}</td>',
        _cell(one.score, ".1f", one.score / 100, of),
    ]
    for rule in rules(terms.memory_gib):
        points = one.points[rule.name]
        cells.append(_cell(points, ".1f", None if points is None else points / rule.points))
    cells += [
        _cell(figures.seconds, ".2f", more=_timed(figures)),
        _cell(figures.steadiness, ".4f"),
        _cell(figures.first_frame, ".4f"),
        _cell(figures.peak_gib, ".2f"),
        _cell(figures.flash_frames, "d"),
        _cell(figures.clips_per_minute, ".2f"),
        _cell(figures.dollars_per_clip(terms.dollars_per_hour), ".5f"),
        f'<td data-value="{figures.n}">{figures.n} of {figures.of}</td>',
    ]
    kind = ' class="out"' if one.eliminated else ""
    return f"<tr{kind}>{''.join(cells)}</tr>"


def _timed(figures: Figures) -> str:
    """Of how many clips the seconds are, where that is not all that came out or where they are no fair ones."""
    if figures.cold:
        return " <small>with the warm-up</small>"
    return f" <small>of {figures.timed}</small>" if figures.timed < figures.n else ""


def _cell(value: Figure, digits: str, share: Figure = None, more: str = "") -> str:
    if value is None:
        return '<td data-value="">not measured</td>'
    bar = "" if share is None else f'<div class="bar"><i style="width:{100 * share:.1f}%"></i></div>'
    return f'<td data-value="{value:.6g}">{value:{digits}}{more}{bar}</td>'


def _row(keyframe: Shown, contestants: Sequence[Contestant]) -> str:
    still = (f'<figure><img src="{_link(keyframe.picture)}" alt="the keyframe {_text(keyframe.name)}">'
             f"<figcaption>the keyframe; {_text(keyframe.motion)}</figcaption></figure>")  # fmt: skip
    clips = "".join(_figure(one, keyframe) for one in contestants)
    return (f'<section><h3>{_text(keyframe.name)} <button data-row hidden>play all</button></h3>'
            f'<div class="row">{still}{clips}</div></section>')  # fmt: skip


def _figure(one: Contestant, keyframe: Shown) -> str:
    clip = next((clip for clip in one.clips if clip.name == keyframe.name), None)
    link = keyframe.clips.get(one.preset)
    video = f'<video controls loop muted playsinline preload="metadata" src="{_link(link)}"></video>' if link else ""
    said = _said(clip) if clip else "not asked for"
    return f"<figure>{video}<figcaption><b>{_text(one.preset)}</b>: {said}</figcaption></figure>"


def _said(clip: ClipFigures) -> str:
    words = [clip.outcome]
    if clip.seconds and clip.came_out:
        words.append(f"{sum(clip.seconds.values()):.2f} s")
    if clip.steadiness is not None:
        words.append(f"temporal SSIM {clip.steadiness:.3f}")
    if clip.first_frame is not None:
        words.append(f"first frame {clip.first_frame:.3f}")
    why = "".join(f'<div class="why">{_text(reason)}</div>' for reason in clip.reasons)
    return _text(", ".join(words)) + why


def _formulas(found: Sequence[Rule]) -> str:
    head = "<th>part</th><th>points</th><th class=words>share of the points</th><th class=words>of what, and why</th>"
    rows = [f"<tr><td>{_text(rule.name)}</td><td>{rule.points}</td><td class=words><code>{_text(rule.formula)}</code>"
            f"</td><td class=words>{_text(rule.why)}</td></tr>" for rule in found]  # fmt: skip
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


_NOTES = """
The score is the sum of the points; where something could not be measured, as a share of those that could be made.
Seconds a clip: the work of all rooms, one after another, on this machine, with prompts, changes of experts, checks.
A model's load is not in them, nor are the clips of the first round after it, while there are others: it warms up.
Clips that share a round share what it takes to change experts: hence the mean, which is what a long batch takes.
Clips a minute: with a worker in every room, the slowest room sets the pace. $ a clip: the card's hour at that pace.
Temporal SSIM: each frame against the one before it, brought into its place by optical flow, where both show the same.
It is measured on delivered frames, 512 pixels wide; those that interpolation made are among them.
"""


def _notes() -> str:
    notes = _NOTES.strip().splitlines()
    return f"<ul>{''.join(f'<li>{_text(note)}</li>' for note in notes)}</ul>"


def _text(words: str) -> str:
    return html.escape(words, quote=True)


def _link(path: str) -> str:
    """A relative address: whatever the names hold, the browser asks for this file."""
    return _text(urllib.parse.quote(f"./{path}"))
