"""Compare the data with the champion's before anything is trained on it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detexport.errors import listed
from detexport.retraining.settings import DataLimits

Statistics = Mapping[str, Mapping[str, Any]]
"""What ``detexport.data.statistics.describe_labels`` returns."""


@dataclass(frozen=True)
class DataCheck:
    """One row of the comparison.

    Args:
        split: ``"train"`` or ``"val"``.
        check: what is compared.
        champion: the champion's data; empty if it has none.
        data: the data to train on.
        limit: what is accepted.
        passed: whether the data are within the limit.
    """

    split: str
    check: str
    champion: str
    data: str
    limit: str
    passed: bool

    @property
    def reason(self) -> str:
        """The row as a reason for a refusal."""
        known = f"; the champion's data: {self.champion}" if self.champion else ""
        return f"data, {self.split}: {self.check}: {self.data} (limit: {self.limit}{known})"


def check_data(data: Statistics, champion: Statistics | None, limits: DataLimits) -> list[DataCheck]:
    """Compare the statistics of the data with those of the champion's data.

    Args:
        data: of the data to train on.
        champion: of the data that the champion was registered with; None if there is no champion, or none
            with statistics. Then only boxes outside their image are counted.
        limits: how much they may differ.

    Returns:
        One row for each check and split.
    """
    return [
        row
        for split in dict.fromkeys([*data, *(champion or {})])
        for row in _check_split(split, data.get(split), (champion or {}).get(split), limits)
    ]


def _check_split(
    split: str,
    data: Mapping[str, Any] | None,
    champion: Mapping[str, Any] | None,
    limits: DataLimits,
) -> Iterator[DataCheck]:
    if data is None:
        images = str(champion["images"]) if champion else ""
        yield DataCheck(split, "the split", f"{images} images", "missing", "not missing", False)
        return
    labels = data["labels"]
    yield _boxes_outside(split, data, champion, limits)
    if champion is None:
        return
    before = champion["labels"]
    yield _decrease(split, "images", champion["images"], data["images"], limits.image_decrease)
    totals = (sum(before.values()), sum(labels.values()))
    yield _decrease(split, "labels", *totals, limits.label_decrease)
    yield _unlabelled(split, data, champion, limits.unlabelled_increase)
    unknown = [name for name in labels if name not in before]
    yield DataCheck(
        split,
        "labels outside the classes",
        f"classes {listed(before, 20)}",
        _counted(unknown, labels),
        "none",
        not unknown,
    )
    yield from _by_class(split, "", before, labels, limits)
    if stuff := champion.get("stuff"):
        yield from _by_class(split, "stuff ", stuff, data.get("stuff", {}), limits)
    shift = label_shift(before, labels)
    yield DataCheck(
        split,
        "label shift",
        _shares(before),
        f"{shift:.3f}: {_shares(labels)}",
        f"{limits.label_shift:g}",
        shift <= limits.label_shift,
    )


def _decrease(split: str, check: str, before: int, now: int, limit: float) -> DataCheck:
    fewest = round(before * (1 - limit))
    return DataCheck(split, check, str(before), str(now), f"at least {fewest}", now >= fewest)


def _unlabelled(split: str, data: Mapping[str, Any], champion: Mapping[str, Any], limit: float) -> DataCheck:
    """Compare the shares of images without a label."""
    before, now = (one["images_without_labels"] / max(one["images"], 1) for one in (champion, data))
    return DataCheck(
        split,
        "images without labels",
        f"{before:.1%}",
        f"{now:.1%}",
        f"at most {min(before + limit, 1):.1%}",
        now <= before + limit,
    )


def _by_class(
    split: str, kind: str, before: Mapping[str, int], now: Mapping[str, int], limits: DataLimits
) -> Iterator[DataCheck]:
    """Compare the numbers of labels of each class: those that lost all of them, and those that lost many."""
    vanished = [name for name, number in before.items() if number and not now.get(name)]
    yield DataCheck(
        split,
        f"{kind}classes without a label",
        _counted(vanished, before),
        listed(vanished) or "none",
        "none",
        not vanished,
    )
    kept = 1 - limits.class_decrease
    fewer = [name for name, number in before.items() if 0 < now.get(name, 0) < number * kept]
    yield DataCheck(
        split,
        f"{kind}classes with fewer labels",
        _counted(fewer, before),
        _counted(fewer, now),
        f"at least {kept:.0%} of the champion's",
        not fewer,
    )


def _boxes_outside(
    split: str, data: Mapping[str, Any], champion: Mapping[str, Any] | None, limits: DataLimits
) -> DataCheck:
    total, outside = sum(data["labels"].values()), data["boxes_outside"]
    examples = f": ids {listed(data['boxes_outside_ids'])}" if outside else ""
    return DataCheck(
        split,
        "boxes outside their image",
        str(champion["boxes_outside"]) if champion else "",
        f"{outside} of {total}{examples}",
        f"{limits.boxes_outside:.1%}",
        outside <= limits.boxes_outside * total,
    )


def label_shift(before: Mapping[str, int], now: Mapping[str, int]) -> float:
    """Return the total variation distance between the shares of the classes in two sets of labels.

    0 if the shares are equal, 1 if no class has labels in both; 1 also if only one set has labels.
    """
    totals = sum(before.values()), sum(now.values())
    if not all(totals):
        return float(totals[0] != totals[1])
    names = {**before, **now}
    return sum(abs(before.get(name, 0) / totals[0] - now.get(name, 0) / totals[1]) for name in names) / 2


def _counted(names: Sequence[str], labels: Mapping[str, int]) -> str:
    return listed(f"{name} ({labels[name]} labels)" for name in names) or "none"


def _shares(labels: Mapping[str, int]) -> str:
    total = sum(labels.values()) or 1
    return listed((f"{name} {number / total:.0%}" for name, number in labels.items()), 10)
