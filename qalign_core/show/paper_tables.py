"""The paper's tables and ours as `tables.Table`: what is in them, in which order, which number is best.

Table numbers follow the paper. Every function takes rows of the results files (`intervals.csv`, `agreement.csv`, ...),
systems in their order, and a caption. Several seeds are averaged, except where a row says which one it is of.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from qalign_core.comparisons import OURS, mean_over_seeds
from qalign_core.languages import CODES, LANGUAGES
from qalign_core.responses import KINDS, RATES
from qalign_core.results import SECONDARY, SIZES, SOURCES, published_cells
from qalign_core.show.tables import CAPTIONS, Table, bounded, from_frame

# Number of the paper's table and printed name of each benchmark; one's own has its own name and no number.
BENCHMARKS = {"mgsm": ("Table 2", "mGSM"), "msvamp": ("Table 3", "mSVAMP")}
HEADINGS = {"system": "System", "average": "Avg.", "non_english": "non-en", "english": "en", "gap": "gap"}
LEVEL = 0.05  # of a test
BOUNDS = ["estimate", "low", "high"]


def named(benchmark: str) -> str:
    """A benchmark as the tables call it."""
    return BENCHMARKS.get(benchmark, ("", benchmark))[1]


def _cells(rows: pd.DataFrame, columns: Sequence[str] = BOUNDS, sign: str = "") -> list[str]:
    return [bounded(*values, sign=sign) for values in rows[list(columns)].to_numpy(dtype=float)]


def _best(values: pd.DataFrame) -> frozenset[tuple[int, str]]:
    """The largest value of each column (all of them where several are equal); none where it is zero."""
    best = values.round(6).pipe(lambda rounded: (rounded == rounded.max()) & (rounded > 0)).stack()
    return frozenset(best.index[best.to_numpy()])


def _without_seed(text: pd.DataFrame) -> pd.DataFrame:
    """A single seed is named by the caption."""
    return text if text["seed"].nunique() > 1 else text.drop(columns="seed")


def _said_once(text: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """A long table without what the row above says already, column by column from the left."""
    same = (text[list(columns)] == text[list(columns)].shift()).cummin(axis=1)
    return text.assign(**text[list(columns)].mask(same, ""))


# ------------------------------------------------------------------------------------- Tables 1 to 3


def data_table(corpora: pd.DataFrame, *, caption: str = "") -> Table:
    """Table 1: one row per data set."""
    titles = {f"{name} (test)": f"{named(name)} (test)" for name in BENCHMARKS}
    return from_frame(
        corpora.convert_dtypes().replace(titles), name="table-1-data", title="Table 1. Data sets", caption=caption
    )


def _with_means(wide: pd.DataFrame) -> pd.DataFrame:
    """Languages and the unweighted means over them, if there are several; a row that lacks a language has no mean."""
    others = wide.drop(columns="en").mean(axis=1, skipna=False)
    means = wide.assign(average=wide.mean(axis=1, skipna=False), non_english=others, gap=wide["en"] - others)
    return means if len(wide.columns) > 1 else wide


def _published(benchmark: str, called: str, size: str, columns: Sequence[str]) -> tuple[dict, dict, dict] | None:
    """A system's published numbers: as numbers, as printed, and where each was read; None where there are none."""
    name, _, tail = called.rpartition(" ")
    name, size = (name, tail) if tail in SIZES else (called, size)
    cells = published_cells(benchmark, size)
    cells = cells[(cells["system"] == name) & cells["language"].isin(columns)].set_index("language")
    if cells.empty:
        return None
    marks = cells["tier"].map({"primary": ""}).fillna(SECONDARY)
    hints = {row.Index: f"LLaMA-2 {size}, {SOURCES[row.source]} ({row.tier} source): {row.link}"
             for row in cells.itertuples()}  # fmt: skip
    listed = "; ".join(sorted(set(cells["source"] + " (" + cells["tier"] + ") " + cells["link"])))
    text = {"system": f"published {size}"} | (cells["value"].map("{:.1f}".format) + marks).to_dict()
    return {"kind": "published", **cells["value"], "source": listed}, text, hints


def _provenance(rows: pd.DataFrame, intervals: pd.DataFrame) -> dict[str, str]:
    """Of a system's numbers: how many right, interval, and with several seeds every seed's value and their range."""
    counts = rows.set_index(["seed", "language"])
    hints = {}
    for column, cells in intervals.groupby("measure"):
        lines = []
        for cell in cells.itertuples():
            right, bounds = "", "no interval"
            if (cell.seed, column) in counts.index:
                right = "{correct} of {total} right, ".format(**counts.loc[(cell.seed, column)])
            if pd.notna(cell.low):
                bounds = f"95% interval {cell.low:.1f} to {cell.high:.1f}"
            lines.append(f"seed {cell.seed}: {cell.estimate:.1f} ({right}{bounds}, {cell.method})")
        if len(lines) > 1:
            ends = cells["estimate"].min(), cells["estimate"].max()
            lines.append("range over {} seeds: {:.1f} to {:.1f}".format(len(lines), *ends))
        hints[column] = "\n".join(lines)
    return hints


def accuracy_table(
    accuracy: pd.DataFrame,
    benchmark: str,
    *,
    caption: str = "",
    scorer: str = "paper",
    systems: Sequence[str] | None = None,  # all by default
    published_as: Mapping[str, str] | None = None,  # our system → its name in published.csv, such as "QAlign 13B"
    published_size: str | None = "7B",  # of LLaMA-2 where the name has none; None for no published numbers
    floor: Mapping[str, float] | None = None,  # language code → accuracy (percent) of the language-blind rule
    intervals: pd.DataFrame | None = None,  # rows of intervals.csv, for each number's hint and a table to unfold
    unfolded: str = "",  # caption of that table
) -> Table:
    """Table 2 (mGSM) or Table 3 (mSVAMP): systems × languages with means and gap, the best of ours in bold."""
    number, name = BENCHMARKS.get(benchmark, ("", benchmark))
    size = published_size if benchmark in BENCHMARKS else None  # nothing is published of one's own
    rows = accuracy[(accuracy["benchmark"] == benchmark) & (accuracy["scorer"] == scorer)]
    wide = rows.groupby(["system", "language"], sort=False)["accuracy"].mean().unstack("language")
    wide = wide[[code for code in CODES if code in wide]]
    wide = wide.reindex(list(dict.fromkeys(rows["system"])) if systems is None else systems)
    lacking = wide.index[wide.isna().any(axis=1)]
    if len(lacking):
        raise ValueError(f"no accuracy of {lacking[0]} on {benchmark} in every language; evaluate it first")
    if "en" not in wide:
        raise ValueError(f"no accuracy on {benchmark} in English ('en'), which means and gap need; evaluate it first")
    ours = _with_means(wide)
    columns, data, text, hints = list(ours), [], [], []  # hints: provenance of every cell
    within = None if intervals is None else intervals[intervals["benchmark"] == benchmark]
    for system, values in ours.iterrows():
        data.append({"system": system, "kind": "ours", **values})
        text.append({"system": system, **values.map("{:z.1f}".format)})
        of_system = rows[rows["system"] == system]
        hints.append({} if within is None else _provenance(of_system, within[within["system"] == system]))
        if size and (found := _published(benchmark, (published_as or {}).get(system, system), size, columns)):
            for kept, row in zip((data, text, hints), found, strict=True):
                kept.append({"system": system, **row})
    if floor is not None:
        values = _with_means(pd.DataFrame([floor], columns=list(wide), dtype=float)).iloc[0]
        data.append({"system": "floor", "kind": "floor", **values})
        text.append({"system": "floor", **values.dropna().map("{:z.1f}".format)})
        hints.append({})
    frame = pd.DataFrame(data, columns=["system", "kind", *columns, "source"])
    keys = list(dict.fromkeys(key for listed in frame["source"].dropna() for key in listed.split("; ")))
    keys.sort(key=lambda key: "secondary" in key)  # the authors' own first
    read = []
    for source, tier, link in (key.partition("#")[0].split(" ") for key in keys):
        read.append(f"{SECONDARY + ' ' if 'secondary' in tier else ''}{SOURCES[source]}" + f" ({link})" * bool(link))
    sources = f" Published numbers are from: {'; '.join(dict.fromkeys(read))}." if read else ""
    own = frame[frame["kind"] == "ours"].drop(columns=["system", "kind", "gap", "source"], errors="ignore")
    stem = f"table-{number.rpartition(' ')[2] or 'accuracy'}-{benchmark}"
    details = [] if within is None else [_intervals_table(within, benchmark, list(ours.index), stem, unfolded)]
    printed, behind = (
        pd.DataFrame(part, columns=["system", *columns], dtype=object).fillna("").rename(columns=HEADINGS)
        for part in (text, [{**row, "system": ""} for row in hints])
    )
    return Table(
        name=stem,
        title=f"{number}. Accuracy on {name} (%)".removeprefix(". "),
        caption=caption + sources,
        data=frame if size else frame.drop(columns="source"),
        text=printed,
        bold=_best(own.rename(columns=HEADINGS)),
        muted=frozenset(frame.index[frame["kind"] != "ours"]),
        hints=behind if any(hints) else None,
        details=tuple(details),
    )


def _intervals_table(rows: pd.DataFrame, benchmark: str, systems: list[str], stem: str, caption: str) -> Table:
    """Every number of Table 2 or 3 with its 95% interval: one row per language or mean and seed."""
    number, name = BENCHMARKS.get(benchmark, ("", benchmark))
    names = {code: f"{LANGUAGES[code].name} ({code})" for code in CODES}
    names |= {measure: HEADINGS[measure] for measure in ("average", "non_english", "gap")}
    rows = rows[rows["system"].isin(systems)].reset_index(drop=True)
    wide = rows.assign(cell=_cells(rows)).pivot(index=["measure", "seed"], columns="system", values="cell")
    measures = [measure for measure in names if measure in set(rows["measure"])]
    text = wide.loc[measures, [s for s in systems if s in wide]].fillna("").reset_index().rename_axis(columns=None)
    text = _without_seed(text.assign(measure=text["measure"].map(names), seed=text["seed"].astype(str)))
    title = f"{number or name} with 95% intervals. Accuracy on {name} (%)"
    return Table(f"{stem}-intervals", title, caption, rows, text.rename(columns={"measure": "Language"}))


def gap_table(intervals: pd.DataFrame, *, caption: str = "", systems: Sequence[str] | None = None) -> Table:
    """The headline: English, the mean of the other languages, and the gap between them, each with its interval."""
    rows = intervals if systems is None else intervals[intervals["system"].isin(systems)]
    means = mean_over_seeds(rows, ["benchmark", "system", "measure"]).set_index(["benchmark", "system"])
    order = [(b, s) for b in rows["benchmark"].unique() for s in rows["system"].unique() if (b, s) in means.index]
    data = pd.DataFrame(order, columns=["benchmark", "system"])[["system", "benchmark"]]
    text = data.assign(benchmark=data["benchmark"].map(named))
    for measure in ("english", "non_english", "gap"):
        part = means.loc[means["measure"] == measure, BOUNDS].reindex(order)
        data = data.assign(**{f"{measure}_{bound}": part[bound].to_numpy() for bound in BOUNDS})
        text[HEADINGS[measure]] = _cells(part)
    return Table("table-gap", "English and the other languages (%)", caption, data, text.rename(columns=HEADINGS))


# ------------------------------------------------------------------------------------- what is chance


def p_text(p: float) -> str:
    """Such as `0.012` or `< 0.001`; blank for a p that could not be computed."""
    return "" if pd.isna(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def comparison_table(compared: pd.DataFrame, *, caption: str = "") -> Table:
    """Declared differences with 95% intervals and p: one row per pair, benchmark, seed and measure."""
    data = compared.reset_index(drop=True)
    text = pd.DataFrame(
        {
            "Difference": data["a"] + " − " + data["b"],
            "benchmark": data["benchmark"].map(named),
            "seed": data["seed"].astype(str),
            "measure": data["measure"].replace(HEADINGS),
            "points": data["difference"].map("{:+.1f}".format),
            "95% interval": [bounded(0, *ends, sign="+")[5:] for ends in data[BOUNDS[1:]].to_numpy()],
            "p": data["p"].map(p_text),
        }
    )
    title = "Differences between systems (points)"
    return Table("table-comparisons", title, caption, data, _said_once(text, ["Difference", "benchmark", "seed"]))


def languages_table(compared: pd.DataFrame, *, clustered: bool = False, caption: str = "") -> Table:
    """Declared differences by language: points, in bold where the exact McNemar test still finds them after Holm's
    correction over the languages."""
    keys = ["a", "b", "benchmark", "seed"]
    codes = [code for code in CODES if code in set(compared["language"])]
    behind = [
        f"{row.only_a} questions only {row.a} has right, {row.only_b} only {row.b}; "
        f"exact McNemar p {p_text(row.p)}, with Holm's correction {p_text(row.p_holm)}"
        for row in compared.itertuples()
    ]
    cells = compared.assign(cell=compared["difference"].map("{:+.1f}".format), hint=behind)
    wide = cells.pivot(index=keys, columns="language", values=["cell", "hint", "p_holm"])
    wide = wide.reindex(pd.MultiIndex.from_frame(cells[keys].drop_duplicates()))
    rows = wide.index.to_frame(index=False)
    first = pd.DataFrame({"Difference": rows["a"] + " − " + rows["b"], "benchmark": rows["benchmark"].map(named)})
    first["seed"] = rows["seed"].astype(str)
    text = first.join(wide["cell"][codes].fillna("").reset_index(drop=True))
    hints = first.assign(Difference="", benchmark="", seed="").join(
        wide["hint"][codes].fillna("").reset_index(drop=True)
    )
    found = (wide["p_holm"][codes].reset_index(drop=True) < LEVEL).stack()
    bold = frozenset(found.index[found.to_numpy()])
    counts = {"languages": len(codes), "found": len(bold), "tested": len(compared)}
    words = CAPTIONS["table-languages"].format(level=LEVEL, **counts)
    words += f" {CAPTIONS['table-languages-clustered']}" if clustered else ""
    title, caption = "Differences language by language (points)", f"{caption} {words}".strip()
    return Table("table-languages", title, caption, compared.reset_index(drop=True), text, bold, hints=hints)


def seeds_table(intervals: pd.DataFrame, systems: Sequence[str], *, caption: str = "") -> Table:
    """What training again changes: every seed's averages, their mean and range. Seeds are never pooled as questions."""
    keys, measures = ["system", "benchmark", "measure"], ["average", "non_english", "english", "gap"]
    wide = intervals.pivot(index=keys, columns="seed", values="estimate").add_prefix("seed ")
    order = [(s, b, m) for s in systems for b in dict.fromkeys(intervals["benchmark"]) for m in measures]
    wide = wide.reindex([key for key in order if key in wide.index])
    data = wide.assign(mean=wide.mean(axis=1), low=wide.min(axis=1), high=wide.max(axis=1)).reset_index()
    numbers = data[[*wide, "mean"]].map(lambda value: "" if pd.isna(value) else f"{value:.1f}")
    ranges = [f"{low:.1f} to {high:.1f}" for low, high in data[["low", "high"]].to_numpy()]
    text = pd.DataFrame({"System": data["system"], "benchmark": data["benchmark"].map(named)})
    text = text.assign(measure=data["measure"].replace(HEADINGS), **numbers, range=ranges)
    title = f"What training again changes: {wide.shape[1]} seeds (%)"
    return Table("table-seeds", title, caption, data, _said_once(text, ["System", "benchmark"]))


# ------------------------------------------------------------------------------------- agreement

# What agreement is split into: column of `consistency.csv`, heading; the chance floor has `_chance` behind its name.
SPLITS = {"consistency": "same answer", "both_right": "both right"}
SPLITS |= {"right_given_english_right": "right, if English is", "same_given_both_wrong": "same, if both wrong"}


def consistency_table(
    agreement: pd.DataFrame,
    counts: pd.DataFrame,
    benchmark: str,
    *,
    differences: pd.DataFrame | None = None,
    caption: str = "",
    systems: Sequence[str] | None = None,
) -> Table:
    """Agreement with English per language, its mean, and the paired difference to the system without alignment."""
    keys = ["system", "seed"]
    agreement, counts = (rows[rows["benchmark"] == benchmark] for rows in (agreement, counts))
    wide = agreement.pivot(index=keys, columns="measure", values=BOUNDS)
    wide = wide.loc[list(dict.fromkeys(agreement["system"]) if systems is None else systems)]
    codes = [code for code in CODES if code in wide["estimate"]]
    data = wide["estimate"][codes].assign(**{name: wide[name, "non_english"] for name in BOUNDS})
    data = data.rename(columns={"estimate": "mean"}).assign(chance=counts.groupby(keys)["chance"].mean())
    text = data[codes].map("{:.1f}".format).assign(Mean=_cells(data, ["mean", "low", "high"]))
    if differences is not None:
        chosen = (differences["benchmark"] == benchmark) & (differences["measure"] == "non_english")
        found = differences[chosen].set_index(["a", "seed"])[["difference", "low", "high"]].reindex(data.index)
        data = data.join(found.add_prefix("to_"))
        text[f"to {differences['b'].iloc[0]}"] = _cells(found, list(found), "+")
    by_run = counts.groupby(keys)
    data["without_number"] = by_run["without_number"].sum() + by_run["english_without_number"].first()
    text["no number"] = data["without_number"].map("{:,}".format)
    text = text.reset_index().rename(columns={"system": "System"}).rename_axis(columns=None)
    text = _without_seed(text.assign(seed=text["seed"].astype(str)))
    title = f"Same answer as in English on {named(benchmark)} (%)"
    return Table(f"table-consistency-{benchmark}", title, caption, data.reset_index(), text)


def split_table(counts: pd.DataFrame, *, caption: str = "", systems: Sequence[str] | None = None) -> Table:
    """What agreement with English is made of, each part with its chance floor: means over languages and seeds."""
    data, text = [], []
    systems = list(dict.fromkeys(counts["system"])) if systems is None else systems
    for benchmark, system in itertools.product(dict.fromkeys(counts["benchmark"]), systems):
        found = counts[(counts["benchmark"] == benchmark) & (counts["system"] == system)]
        row, cells = {"system": system, "benchmark": benchmark}, {"System": system, "benchmark": named(benchmark)}
        for name, heading in SPLITS.items():
            floor = "chance" if name == "consistency" else f"{name}_chance"
            pooled = found["both_wrong"] if name == "same_given_both_wrong" else 1
            weights = found[name].notna() * pooled  # of each language
            total = weights.sum() or float("nan")
            row |= {column: (found[column].fillna(0) * weights).sum() / total for column in (name, floor)}
            cells[heading] = "" if pd.isna(row[name]) else f"{row[name]:.1f} ({row[floor]:.1f})"
        row["both_wrong"] = int(found["both_wrong"].sum())
        data.append(row)
        text.append({**cells, "n both wrong": f"{row['both_wrong']:,}"})
    title = "What agreement with English is made of (%)"
    return Table("table-consistency-split", title, caption, pd.DataFrame(data), pd.DataFrame(text))


# ------------------------------------------------------------------------------------- responses

_RESPONSES = {"cut": "cut off", "without_number": "no number", "english": "in English", "own": "in the question's"}
_RESPONSES |= {"other": "in another", "undetermined": "cannot tell"}


def _headed(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows by system and benchmark with both in columns, as the tables call them."""
    frame = rows.rename_axis(columns=None).reset_index().rename(columns={"system": "System"})
    return frame.assign(benchmark=frame["benchmark"].map(named))


def responses_table(rates: pd.DataFrame, identified: pd.DataFrame | None = None, *, caption: str = "") -> Table:
    """How responses end and which language they are in: one row per system and benchmark, in percent."""
    spoken = ["english", "own", "other", "undetermined"]
    keys = ["system", "benchmark"]
    means = rates.groupby(keys, sort=False)[list(RATES)].mean()
    means[spoken] = rates[rates["language"] != "en"].groupby(keys, sort=False)[spoken].mean()
    words = CAPTIONS["table-responses"]
    if identified is not None and len(identified):
        share = 100.0 * identified["right"].sum() / identified["questions"].sum()
        worst = (identified["right"] / identified["questions"]).groupby(identified["language"]).mean()
        words += (
            f" The language is identified automatically, which is right for {share:.1f}% of this run's own "
            f"{identified['questions'].sum():,} questions"
        )
        words += f" (lowest: {worst.idxmin()}, {100 * worst.min():.1f}%)." if worst.min() < 1 else "."
    frame = _headed(means).rename(columns=_RESPONSES)
    return from_frame(frame, name="table-responses", title="Responses (%)", caption=f"{caption} {words}".strip())


def errors_table(errors: pd.DataFrame, *, caption: str = "") -> Table:
    """Wrong answers by kind: how many answers of a system are wrong, and the kinds in percent of them."""
    counts = errors.pivot_table(index=["system", "benchmark"], columns="kind", values="answers", aggfunc="sum",
                                sort=False).reindex(columns=list(KINDS))  # fmt: skip
    wrong = counts.sum(axis=1).astype(int)
    shares = 100.0 * counts.div(wrong.where(wrong > 0), axis=0)
    shares.insert(0, "wrong", wrong)
    frame = _headed(shares)
    caption = f"{caption} {CAPTIONS['table-errors']}".strip()
    return from_frame(frame, name="table-errors", title="Wrong answers by kind", caption=caption)


def cleaned_table(cleaned: pd.DataFrame, *, scorer: str = "paper", caption: str = "") -> Table:
    """Averages as in the paper beside the same without the questions that translation broke (`cleaned.csv`)."""
    chosen, both = cleaned[cleaned["scorer"] == scorer], ["accuracy", "cleaned"]
    removed = cleaned.drop_duplicates(["benchmark", "language"]).query("removed > 0")
    listed = ", ".join(f"{code} {count}" for code, count in zip(removed["language"], removed["removed"], strict=True))
    words = CAPTIONS["table-cleaned"].format(listed=listed)
    by_language = chosen.groupby(["system", "benchmark", "language"], sort=False)[both].mean()  # over seeds
    means = by_language.groupby(["system", "benchmark"], sort=False).mean()
    others = by_language.drop(index="en", level="language").groupby(["system", "benchmark"], sort=False).mean()
    frame = _headed(means.join(others, rsuffix=" of others"))
    frame.columns = ["System", "benchmark", "Avg.", "Avg., cleaned", "non-en", "non-en, cleaned"]
    title = "Averages without broken questions (%)"
    return from_frame(frame, name="table-cleaned", title=title, caption=f"{caption} {words}".strip())


# ------------------------------------------------------------------------------------- Table 4


def ablation_table(
    intervals: pd.DataFrame,  # rows of `ablation_intervals.csv`
    compared: pd.DataFrame,  # of `ablations.csv`: pairs (variant, ours) and (variant, its control of equal size)
    rows: Mapping[str, str],  # system → how the table names it, in order, such as `{"MonoReason": "none", ...}`
    *,
    examples: Mapping[str, int],  # system → examples of its stage 1
    caption: str = "",
    unfolded: str = "",  # caption of the table of every seed, which several seeds have below their means
    published: Mapping[tuple[str, str], float] | None = None,  # (benchmark, system) → published average, in percent
    study: bool = False,  # whether these are the profile's own studies, not Table 4
) -> Table:
    """Averages of English and the other languages per system, with paired differences to ours and to its control."""
    name, title = "table-4-ablation", "Table 4. What stage 1 is made of (%)"
    heading, control = "Stage 1", "to same size"
    if study:
        name, title, heading, control = "table-study-other", "Other studies (%)", "System", "to its control"
    if lacking := [system for system in rows if system not in set(intervals["system"])]:
        raise ValueError(f"{title.partition('.')[0]}: no results of {lacking[0]!r}; evaluate it first")
    chosen = intervals[intervals["system"].isin(rows)]
    differences = compared[(compared["measure"] == "non_english") & compared["a"].isin(rows)]
    differences = differences.rename(columns={"difference": "estimate", "a": "system"})
    place, keys = {system: number for number, system in enumerate(rows)}, ["benchmark", "system", "seed"]

    def table(name: str, title: str, caption: str, chosen: pd.DataFrame, differences: pd.DataFrame) -> Table:
        data = chosen[["system", "benchmark", "seed"]].drop_duplicates()
        number = pd.factorize(data["benchmark"])[0]  # a benchmark at a time, systems in their order
        data = data.iloc[np.lexsort([data["system"].map(place), number])].reset_index(drop=True)
        labels = data["system"].map(rows)
        text = pd.DataFrame({heading: labels, "benchmark": data["benchmark"].map(named)})
        text["seed"] = data["seed"].astype(str)
        if not study:
            data.insert(0, heading.lower(), labels)
        data["examples"] = data["system"].map(examples)
        if study:  # in Table 4 the first column says it
            text["examples"] = ["" if pd.isna(n) else f"{int(n):,}" for n in data["examples"]]
        for measure in (name for name in ("english", "non_english", "average") if name in set(chosen["measure"])):
            found = data[keys].merge(chosen[chosen["measure"] == measure], on=keys, how="left")
            data[[measure, f"{measure}_low", f"{measure}_high"]] = found[BOUNDS]
            text[HEADINGS[measure]] = _cells(found)
        ours = differences["b"] == OURS
        for kind, column, those in (("to_ours", "non-en, to QAlign", ours), ("to_control", control, ~ours)):
            if those.any():
                found = data[keys].merge(differences.loc[those, [*keys, *BOUNDS, "p"]], on=keys, how="left")
                data[[kind, f"{kind}_low", f"{kind}_high", f"{kind}_p"]] = found[[*BOUNDS, "p"]]
                text[column] = _cells(found, sign="+")
        if published:
            known = [published.get(key) for key in zip(data["benchmark"], data["system"], strict=True)]
            data["published_average"] = known
            text["published Avg."] = ["" if value is None else str(value) for value in known]
        return Table(name, title, caption, data, _without_seed(text))

    if chosen["seed"].nunique() == 1:
        return table(name, title, caption, chosen, differences)
    every = f"{title.removesuffix(' (%)')}: every seed (%)"
    each = table(f"{name}-seeds", every, unfolded, chosen, differences)
    means = mean_over_seeds(chosen, ["system", "benchmark", "measure"]).assign(seed=0)
    over_seeds = mean_over_seeds(differences, ["system", "b", "benchmark", "measure"]).assign(seed=0, p=float("nan"))
    averaged = table(name, title, caption, means, over_seeds)
    data = averaged.data.drop(columns="seed").dropna(axis=1, how="all")  # means have no p
    return replace(averaged, data=data, details=(each,))
