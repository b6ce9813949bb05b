"""The weights: whether those of the presets that this home uses are all there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from core.doctor.result import Check, Patient, Result, fail, ok, skipped
from core.errors import Refused
from core.generate.plan import check_terms
from core.generate.presets import Preset
from core.generate.weights import explain, look, used


def there(patient: Patient) -> Iterator[Result]:
    """Those of the preset that the settings name, and what else is whole."""
    if patient.settings.gpu:
        yield from judge(patient, used(patient.settings, patient.home.root))


CHECKS = (Check("weights", "weights", there),)


def judge(patient: Patient, presets: Iterable[Preset]) -> Iterator[Result]:
    """Whether the weights of each of these are there, and nothing is in the way of using them."""
    rules = patient.settings.generation
    for preset in presets:
        if preset.weights is None:
            yield skipped("weights", f"'{preset.name}' has no model, and needs none")
            continue
        try:
            check_terms(preset, rules)
        except Refused as error:  # before anybody fetches what may not be used
            yield fail(preset.name, error.finding.message, error.finding.remedy or "")
        found = look(preset, rules, patient.home.root)
        if problem := explain(preset, found):
            yield fail(preset.name, problem.message, problem.remedy or "")
        else:
            count, size = sum(len(each.files) for each in found), sum(each.bytes for each in found)
            yield ok(preset.name, f"{count} files, {size / 1e9:,.1f} GB, in {found[0].folder}")
